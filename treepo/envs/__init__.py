"""Environments of several turns, and how they fork."""

from treepo.envs.base import CopyFork, Environment, Message, Turn
from treepo.envs.check import check_forks
from treepo.envs.interpreter import PythonInterpreter
from treepo.envs.replay import ReplayFork
from treepo.envs.snapshot import Snapshot, SnapshotFork

__all__ = [
    "CopyFork",
    "Environment",
    "Message",
    "PythonInterpreter",
    "ReplayFork",
    "Snapshot",
    "SnapshotFork",
    "Turn",
    "check_forks",
]
