"""What is timed, in which order, and what the times mean."""

from dataclasses import dataclass

import pytest

from treepo.bench.common import Variant, time_interleaved
from treepo.bench.rollout import compare
from treepo.report.bench_results import RolloutCounts, RolloutMeasurement


@dataclass
class Recorded(Variant):
    name: str
    calls: list[str]

    def prepare(self) -> None:
        self.calls.append(f"prepare {self.name}")

    def run(self) -> None:
        self.calls.append(self.name)


def test_variants_take_turns_and_the_first_round_is_not_counted():
    calls: list[str] = []
    progress: list[tuple[int, int]] = []
    variants = [Recorded("a", calls), Recorded("b", calls)]
    seconds = time_interleaved(variants, repeats=2, progress=lambda done, total, _: progress.append((done, total)))
    assert calls == ["prepare a", "a", "prepare b", "b"] * 3
    assert [len(own) for own in seconds] == [2, 2]
    assert progress == [(i + 1, 6) for i in range(6)]


SEQUENTIAL = RolloutMeasurement("sequential", (10.0, 2.0, 4.0), RolloutCounts(8, 80, 80, 40, 80, None))
TREE = RolloutMeasurement("tree", (4.0, 1.0, 4.0), RolloutCounts(8, 80, 50, 40, 45, 7))


def test_ratios_are_taken_round_by_round():
    """Ratios of the rounds 2.5, 2, 1: the median is 2, where the ratio of medians would be 4 / 4."""
    assert compare(TREE, SEQUENTIAL).over_sequential == 2.0


def test_statistics_of_a_tree():
    stats = compare(TREE, SEQUENTIAL)
    assert stats.trajectories_per_s == 8 / 4
    assert (stats.total_per_s, stats.decoded_per_s, stats.forwarded_per_s) == (80 / 4, 50 / 4, 90 / 4)
    assert stats.distinct_ratio == 45 / 80
    assert stats.ideal == 80 / 50
    assert stats.ideal_with_prompts == pytest.approx(120 / 90)
    assert stats.achieved == pytest.approx(2.0 / 1.6)


def test_sequential_sampling_compared_with_itself():
    stats = compare(SEQUENTIAL, SEQUENTIAL)
    ratios = stats.ideal, stats.ideal_with_prompts, stats.over_sequential, stats.achieved
    assert ratios == (1, 1, 1, 1)


def test_ratios_are_per_trajectory():
    """Half the trajectories in half the time is as fast."""
    half = RolloutMeasurement("half", (5.0, 1.0, 2.0), RolloutCounts(4, 40, 40, 20, 40, None))
    assert compare(half, SEQUENTIAL).over_sequential == 1
    assert compare(half, SEQUENTIAL).ideal_with_prompts == 1
