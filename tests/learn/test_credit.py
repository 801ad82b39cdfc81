"""From trees to advantages in a step: what is kept, whitening over processes, and what estimators must return."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest

from tests.trees import complete_tree, star, tree_of
from treepo.credit.base import Advantages, Estimator
from treepo.credit.group import GRPO, MaxRL
from treepo.credit.segment import SPO, FadingDifference, ValueDifference
from treepo.credit.subgroup import TreePO
from treepo.distributed import DistContext
from treepo.errors import StrategyError
from treepo.learn.advantages import compute_advantages
from treepo.tree import Tree

TREES = [complete_tree(2), star(3, 4), tree_of({0: (1, 2), 2: (3, 4)}, 2)]
REWARDS = [np.array(own) for own in ([1.0, 0, 0, 0], [1.0, 1, 0], [0.0, 1, 0])]


@dataclass(frozen=True)
class Made:
    """A custom estimator that returns whatever a test says."""

    make: Callable[[Tree], Any]
    per_node: Any = False
    whiten: bool = False

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        return self.make(tree)


@dataclass(frozen=True)
class Adding(DistContext):
    """DistContext that add numbers up as a test says."""

    adding: Callable[[np.ndarray], np.ndarray] = np.copy

    def all_reduce(self, values: np.ndarray) -> np.ndarray:
        return self.adding(values)


class TwoProcesses:
    """Sums over two threads, each of which has to ask for as many as the other."""

    def __init__(self) -> None:
        self.barrier, self.given = Barrier(2, timeout=20), {}

    def of(self, rank: int) -> Callable[[np.ndarray], np.ndarray]:
        """What the process of this rank calls."""

        def sums(values: np.ndarray) -> np.ndarray:
            self.given[rank] = values
            self.barrier.wait()
            total = self.given[0] + self.given[1]
            self.barrier.wait()
            return total

        return sums


@pytest.mark.parametrize("estimator", [TreePO(), ValueDifference(), FadingDifference(), GRPO(), SPO()], ids=repr)
@pytest.mark.parametrize("first", [3, 2, 1, 0])
def test_two_processes_credit_like_one(estimator: Estimator, first: int) -> None:
    """However the trees are divided; a process without any used to leave the other one waiting."""
    together, found = compute_advantages(TREES, REWARDS, estimator).by_tree, TwoProcesses()
    parts: dict[int, list[Advantages | None]] = {}

    def run(rank: int, own: slice) -> None:
        processes = Adding(adding=found.of(rank))
        parts[rank] = compute_advantages(TREES[own], REWARDS[own], estimator, processes=processes).by_tree

    threads = [Thread(target=run, args=(0, slice(first))), Thread(target=run, args=(1, slice(first, None)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(together, parts[0] + parts[1], strict=True):
        assert one is not None and other is not None
        assert other.values == pytest.approx(one.values, abs=1e-12)


def test_a_process_whose_trees_all_agree_takes_part() -> None:
    """It adds nothing to the sums, but has to be asked for them."""
    asked = []

    def sums(values: np.ndarray) -> np.ndarray:
        asked.append(values.tolist())
        return values

    processes = Adding(adding=sums)
    assert compute_advantages([star(2)], [np.ones(2)], TreePO(), processes=processes).by_tree == [None]
    assert asked == [[0, 0], [0]]


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (Made(lambda tree: np.zeros(6)), r"Made returned .* \(6,\), expected \(4,\) .* 4 leaves with per_node = False"),
        (Made(lambda tree: np.zeros(7)), r"Made returned .* \(7,\), expected \(4,\)"),
        (Made(lambda tree: np.zeros((7, 4))), r"Made returned .* \(7, 4\), expected \(4,\)"),
        (Made(lambda tree: np.zeros(4), per_node=True), r"Made returned .* \(4,\), expected \(7,\) or \(7, 4\)"),
        (Made(lambda tree: np.zeros((4, 7)), per_node=True), r"Made returned .* \(4, 7\), expected \(7,\) or"),
        (Made(lambda tree: 0.5), r"Made returned .* \(\), expected \(4,\)"),
        (Made(lambda tree: np.array([0, 1, np.nan, 0])), "Made returned an advantage that is not finite"),
        (Made(lambda tree: np.full(7, -np.inf), per_node=True), "Made returned an advantage that is not finite"),
        (MaxRL(), "MaxRL: needs rewards that are not negative, got -1.0"),
    ],
)
def test_an_estimator_that_cannot_credit_is_named(estimator: Estimator, message: str) -> None:
    """In one line; a wrong shape used to be a failed assertion, or to train on something else."""
    with pytest.raises(StrategyError, match=f"^credit: {message}") as error:
        compute_advantages([complete_tree(2)], [np.array([1.0, 0, -1, 0])], estimator)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("whiten", [False, True])
def test_whole_numbers_and_lists_are_taken(whiten: bool) -> None:
    """As float64; one per node and leaf as well."""
    rewards = [np.array([1.0, 0, 0])]
    [found] = compute_advantages([star(3)], rewards, Made(lambda tree: [2, -1, -1], whiten=whiten)).by_tree
    assert found is not None and found.values.dtype == np.float64
    assert found.values[0] == pytest.approx(-2 * found.values[1])
    [pairs] = compute_advantages([star(3)], rewards, Made(lambda tree: np.ones((4, 3)), True, whiten)).by_tree
    assert pairs is not None and pairs.values.shape == (4, 3)
