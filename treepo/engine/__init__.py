"""Engines: token ids in, one segment out. They know nothing of trees."""

from treepo.engine.base import Engine, EngineCounters, EngineError, SampleRequest, SampleResult, Sampling
from treepo.engine.scripted import ScriptedEngine

__all__ = ["Engine", "EngineCounters", "EngineError", "SampleRequest", "SampleResult", "Sampling", "ScriptedEngine"]
