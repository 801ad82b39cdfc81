"""What is timed, in which order, and what the times mean."""

from dataclasses import dataclass, field

import pytest

from treepo.bench.rollout_variants import Counts
from treepo.bench.timing import Measurement, compare, measure


@dataclass
class Recorded:
    name: str
    calls: list[str]
    done: list[str] = field(default_factory=list)

    def prepare(self) -> None:
        self.calls.append(f"prepare {self.name}")

    def run(self) -> None:
        self.calls.append(self.name)

    def counts(self) -> Counts:
        return Counts(4, 40, 20, 8, 10, None)


def test_contenders_take_turns_and_the_first_round_is_not_counted():
    calls: list[str] = []
    progress: list[tuple[int, int]] = []
    contenders = [Recorded("a", calls), Recorded("b", calls)]
    measured = measure(contenders, repeats=2, progress=lambda done, total, _: progress.append((done, total)))
    assert calls == ["prepare a", "a", "prepare b", "b"] * 3
    assert [len(m.seconds) for m in measured] == [2, 2]
    assert progress == [(i + 1, 6) for i in range(6)]


SEQUENTIAL = Measurement("sequential", (10.0, 2.0, 4.0), Counts(8, 80, 80, 40, 80, None))
TREE = Measurement("tree", (4.0, 1.0, 4.0), Counts(8, 80, 50, 40, 45, 7))


def test_ratios_are_taken_round_by_round():
    """Ratios of the rounds 2.5, 2, 1: the median is 2, where the ratio of medians would be 4 / 4."""
    assert compare(TREE, SEQUENTIAL).over_sequential == 2.0


def test_figures_of_a_tree():
    figures = compare(TREE, SEQUENTIAL)
    assert figures.trajectories_per_s == 8 / 4
    assert (figures.total_per_s, figures.decoded_per_s, figures.forwarded_per_s) == (80 / 4, 50 / 4, 90 / 4)
    assert figures.distinct_ratio == 45 / 80
    assert figures.ideal == 80 / 50
    assert figures.ideal_with_prompts == pytest.approx(120 / 90)
    assert figures.achieved == pytest.approx(2.0 / 1.6)


def test_sequential_sampling_compared_with_itself():
    figures = compare(SEQUENTIAL, SEQUENTIAL)
    ratios = figures.ideal, figures.ideal_with_prompts, figures.over_sequential, figures.achieved
    assert ratios == (1, 1, 1, 1)


def test_ratios_are_per_trajectory():
    """Half the trajectories in half the time is as fast."""
    half = Measurement("half", (5.0, 1.0, 2.0), Counts(4, 40, 40, 20, 40, None))
    assert compare(half, SEQUENTIAL).over_sequential == 1
    assert compare(half, SEQUENTIAL).ideal_with_prompts == 1
