"""Engines: token ids in, one segment out. They know nothing of trees."""

from treepo.engine.base import Engine, SampleRequest, SampleResult
from treepo.engine.scripted import ScriptedEngine

__all__ = ["Engine", "SampleRequest", "SampleResult", "ScriptedEngine"]
