"""What finished trees are charged."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.trees import star
from treepo.engine.base import EngineCounters
from treepo.evaluate.answering import Meter


def engine_at(decoded: int, prefilled: int) -> Any:
    return cast(Any, SimpleNamespace(counters=EngineCounters(num_decoded=decoded, num_prefilled=prefilled)))


def test_finished_trees_are_charged_their_own_and_in_the_end_everything() -> None:
    """Half of what was decoded is in the first trees, so is half of the time and of the prefixes; the rest follows."""
    engine = engine_at(100, 1000)
    meter = Meter(engine, num_accelerators=2)
    trees = [star(2, 5), star(2, 5), star(4, 5)]
    tokens = [tree.num_decoded() for tree in trees]
    assert tokens == [10, 10, 20]
    engine.counters = EngineCounters(num_decoded=140, num_prefilled=1080)
    first = meter.charge(trees[:2], seconds=3.0)
    assert (first.tokens_decoded, first.tokens_prefilled, first.wall_s, first.accelerator_s) == (20, 40, 1.5, 3.0)
    second = meter.charge(trees[2:], seconds=1.0)
    assert (second.tokens_decoded, second.tokens_prefilled) == (20, 40)
    assert first.wall_s + second.wall_s == pytest.approx(4.0)
    assert first.accelerator_s + second.accelerator_s == pytest.approx(8.0)


def test_nothing_is_given_back() -> None:
    """Where the engine has run far ahead of the finished trees, a later share would be smaller than the first."""
    engine = engine_at(0, 0)
    meter = Meter(engine, num_accelerators=1)
    engine.counters = EngineCounters(num_decoded=5, num_prefilled=10)
    first = meter.charge([star(1, 5)], seconds=1.0)
    engine.counters = EngineCounters(num_decoded=1000, num_prefilled=10)
    second = meter.charge([star(1, 5)], seconds=1.0)
    assert first.wall_s == 1.0 and second.wall_s == 0.0 and second.tokens_prefilled == 0
    assert second.tokens_decoded == 5
