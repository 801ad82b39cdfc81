"""Dynamic sampling: problems are grown until enough of them carry a signal."""

from dataclasses import dataclass

MOST = 1_000


@dataclass(frozen=True)
class DynamicSampling:
    """Grow further problems in place of those whose rewards all agree (TreePO, section 3; DAPO, arXiv 2503.14476).

    The paper grows three times the problems it wants, and again up to twice. Here each further round grows as many as
    the share of survivors so far suggests, so that less is grown in vain. A step that finds too few, or none, goes on
    with what it has.
    """

    max_rounds: int = 1
    """Most rounds of growing per step; 1 for none but the first."""

    max_factor: float = 3.0
    """Most problems grown per step, as a multiple of prompts_per_step, where there are further rounds."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_rounds <= MOST:
            raise ValueError(f"max_rounds must be within 1..{MOST}, got {self.max_rounds}")
        if not 1 <= self.max_factor <= MOST:
            raise ValueError(f"max_factor must be within 1..{MOST}, got {self.max_factor}")

    def most(self, wanted: int) -> int:
        """Problems that a step may grow in all."""
        return int(wanted * self.max_factor) if self.max_rounds > 1 else wanted

    def num_next(self, wanted: int, num_kept: int, num_grown: int, num_rounds: int) -> int:
        """Problems to grow in the next round; 0 if enough were kept, or no round or problem is left.

        missing x (grown + 1) / (kept + 1), rounded up: the first round grows as many as are wanted.
        """
        if num_kept >= wanted or num_rounds >= self.max_rounds:
            return 0
        estimate = -(-(wanted - num_kept) * (num_grown + 1) // (num_kept + 1))
        return min(estimate, self.most(wanted) - num_grown)
