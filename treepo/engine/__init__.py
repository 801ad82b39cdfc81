"""Engines: token ids in, one segment out. They know nothing of trees."""

from treepo.engine.base import Engine, EngineCounters, SampleRequest, SampleResult, SamplingParams
from treepo.engine.scripted import ScriptedEngine
from treepo.errors import EngineError

__all__ = [
    "Engine",
    "EngineCounters",
    "EngineError",
    "SampleRequest",
    "SampleResult",
    "SamplingParams",
    "ScriptedEngine",
]
