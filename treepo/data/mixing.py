"""The order of training problems: an endless, seeded sequence in which each entry depends on its position alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import numpy as np

from treepo.errors import SettingError
from treepo.utils.numeric import largest_remainder
from treepo.utils.rng import derive_seed

MIN_BLOCK = 64
MAX_BLOCK = 10_000


def epoch_indices(seed: int, positions: Iterable[int], size: int) -> list[int]:
    """The index into `size` items at each position of an endless sequence of epochs.

    Each epoch has every item once, in its own order, seeded by (seed, "epoch", epoch).
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
    """The dataset of each position of an endless sequence, in proportion to weights.

    Positions come in blocks. After b blocks of B positions each dataset has as many of them as the largest-remainder
    method gives for b x B positions: less than 1 away from weight x positions at the end of a block, and less than a
    block away anywhere. Within a block the order is seeded.
    """

    weights: tuple[float, ...]
    """One positive number per dataset; only their proportions matter."""

    seed: int = 0
    """Seed of the order within the blocks."""

    def __post_init__(self) -> None:
        if not self.weights or not all(0 < weight < float("inf") for weight in self.weights):
            raise SettingError("weights", "must be positive numbers", list(self.weights))
        if min(self.shares) * MAX_BLOCK < 1:
            raise SettingError("weights", f"must each be at least 1/{MAX_BLOCK} of their sum", list(self.weights))

    @property
    def shares(self) -> list[Fraction]:
        """The weights as exact fractions of their sum."""
        weights = [Fraction(weight) for weight in self.weights]
        return [weight / sum(weights) for weight in weights]

    @property
    def block(self) -> int:
        """Positions of a block: enough for every dataset to have one.

        With fewer, a dataset's count after a block could fall below its count before it (the Alabama paradox).
        """
        return max(MIN_BLOCK, ceil(1 / min(self.shares)))

    def assign(self, positions: Iterable[int]) -> list[tuple[int, int]]:
        """For each position, the index of its dataset and the number of that dataset's earlier positions.

        Costs one permutation per block that the positions lie in, wherever they lie.
        """
        size, shares = self.block, self.shares
        blocks: dict[int, list[tuple[int, int]]] = {}
        assigned = []
        for position in positions:
            number, place = divmod(position, size)
            if number not in blocks:
                blocks[number] = self._assign_block(number, size, shares)
            assigned.append(blocks[number][place])
        return assigned

    def _assign_block(self, number: int, size: int, shares: list[Fraction]) -> list[tuple[int, int]]:
        before, after = (largest_remainder(count * size, shares) for count in (number, number + 1))
        counts = [last - first for first, last in zip(before, after, strict=True)]
        datasets = np.repeat(np.arange(len(counts)), counts)
        order = np.random.default_rng(derive_seed(self.seed, "block", number)).permutation(size)
        assigned, seen = [], before
        for index in datasets[order].tolist():
            assigned.append((index, seen[index]))
            seen[index] += 1
        return assigned
