"""vLLM's own servers as an engine, for trainers and engines on different machines."""

from treepo.engine.servers.engine import ServerEngine
from treepo.engine.servers.nccl import NcclSync
from treepo.engine.servers.settings import ServerSettings
from treepo.engine.servers.sync import DiskSync

__all__ = ["DiskSync", "NcclSync", "ServerEngine", "ServerSettings"]
