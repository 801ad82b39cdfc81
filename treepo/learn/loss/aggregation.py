"""What each token of each trajectory of an update weighs.

Letters: L trajectories of the update · n_i response tokens of one.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Aggregation(Protocol):
    """lens [L] -> float64 [L]: the weight of a token of each trajectory."""

    def __call__(self, lens: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class TokenMean:
    """1 / sum of n: the mean over all response tokens of the update. Source: DAPO, arXiv 2503.14476, section 3.3."""

    def __call__(self, lens: np.ndarray) -> np.ndarray:
        return np.full(len(lens), 1.0 / lens.sum())


@dataclass(frozen=True)
class TrajectoryMean:
    """1 / (L n_i): the mean over trajectories of the means over their tokens. Source: GRPO, arXiv 2402.03300, eq. 3."""

    def __call__(self, lens: np.ndarray) -> np.ndarray:
        return 1.0 / (len(lens) * lens)


@dataclass(frozen=True)
class ConstantLength:
    """1 / (L length): sums over tokens divided by a constant, so that no length is favoured. Source: Dr. GRPO,
    arXiv 2503.20783, section 3.2."""

    length: int
    """The constant; its authors take the longest response that is allowed."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}")

    def __call__(self, lens: np.ndarray) -> np.ndarray:
        return np.full(len(lens), 1.0 / (len(lens) * self.length))
