"""The order in which problems are asked: endless, seeded, and a function of the position alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import numpy as np

from treepo.utils.rng import derive_seed

SHORTEST_BLOCK = 64
LONGEST_BLOCK = 10_000


def epoch_indices(seed: int, positions: Iterable[int], size: int) -> list[int]:
    """Which of `size` things stands at each position of an endless sequence of epochs, from 0 on.

    Each epoch has every thing once, in an order of its own that is seeded by (seed, "epoch", epoch).
    """
    assert size > 0, size
    orders: dict[int, np.ndarray] = {}
    indices = []
    for position in positions:
        epoch, place = divmod(position, size)
        if epoch not in orders:
            orders[epoch] = np.random.default_rng(derive_seed(seed, "epoch", epoch)).permutation(size)
        indices.append(int(orders[epoch][place]))
    return indices


@dataclass(frozen=True)
class Mixture:
    """Which of several sets each position of an endless sequence draws from, in proportion to their weights.

    Positions are laid out in blocks. After b blocks of B positions each set has been drawn from as often as the method
    of the largest remainder gives for b x B positions, so at a block's end less than 1 away from weight x positions,
    and anywhere less than a block away. Within a block the draws are in a seeded order.
    """

    weights: tuple[float, ...]
    """One positive number for each set; only their proportions matter."""

    seed: int = 0
    """Of the order within the blocks."""

    def __post_init__(self) -> None:
        if not self.weights or not all(0 < weight < float("inf") for weight in self.weights):
            raise ValueError(f"weights must be positive numbers, got {list(self.weights)}")
        if min(self.shares) * LONGEST_BLOCK < 1:
            raise ValueError(f"weights must each be at least 1/{LONGEST_BLOCK} of their sum, got {list(self.weights)}")

    @property
    def shares(self) -> list[Fraction]:
        """The weights as parts of their sum, exactly."""
        weights = [Fraction(weight) for weight in self.weights]
        return [weight / sum(weights) for weight in weights]

    @property
    def block(self) -> int:
        """Positions of a block: so many that every set is due at least once in it.

        With fewer, a set's count after a block could fall below its count before it (the Alabama paradox).
        """
        return max(SHORTEST_BLOCK, ceil(1 / min(self.shares)))

    def draws(self, positions: Iterable[int]) -> list[tuple[int, int]]:
        """For each position its set, and how often that set was drawn from before.

        Costs one permutation for each block that the positions lie in, wherever they lie.
        """
        size, shares = self.block, self.shares
        blocks: dict[int, list[tuple[int, int]]] = {}
        drawn = []
        for position in positions:
            number, place = divmod(position, size)
            if number not in blocks:
                blocks[number] = self._draws_of_block(number, size, shares)
            drawn.append(blocks[number][place])
        return drawn

    def _draws_of_block(self, number: int, size: int, shares: list[Fraction]) -> list[tuple[int, int]]:
        before, after = (apportion(count * size, shares) for count in (number, number + 1))
        counts = [last - first for first, last in zip(before, after, strict=True)]
        sets = np.repeat(np.arange(len(counts)), counts)
        order = np.random.default_rng(derive_seed(self.seed, "block", number)).permutation(size)
        drawn, seen = [], before
        for index in sets[order].tolist():
            drawn.append((index, seen[index]))
            seen[index] += 1
        return drawn


def apportion(seats: int, shares: list[Fraction]) -> list[int]:
    """Whole numbers that add up to `seats`, each less than 1 away from share x seats.

    Source: the method of the largest remainder (Hamilton); of equal remainders the earlier share's counts as larger.
    """
    due = [share * seats for share in shares]
    counts = [int(exact) for exact in due]
    by_remainder = sorted(range(len(due)), key=lambda i: (counts[i] - due[i], i))
    for i in by_remainder[: seats - sum(counts)]:
        counts[i] += 1
    return counts
