"""vLLM as an engine: in this process, or behind servers."""

from treepo.engine.vllm.engine import VllmEngine
from treepo.engine.vllm.rows import RowStreams
from treepo.engine.vllm.start import VllmLimits, VllmSettings, start_vllm

__all__ = ["RowStreams", "VllmEngine", "VllmLimits", "VllmSettings", "start_vllm"]
