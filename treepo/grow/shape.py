"""The size of a tree, in the paper's four numbers and one bound."""

from dataclasses import dataclass

MOST = 1_000_000


@dataclass(frozen=True)
class TreeShape:
    """How large each tree grows (paper, section 2.2)."""

    width: int = 8
    """Trajectories per tree."""

    depth: int = 8
    """Most segments in a trajectory."""

    segment_len: int = 16
    """Most tokens decoded per segment."""

    num_children: int = 2
    """Children per path when it forks (the paper's b)."""

    max_response_len: int | None = None
    """Most tokens in a trajectory; depth x segment_len if not given."""

    def __post_init__(self) -> None:
        for name in ("width", "depth", "segment_len", "num_children"):
            if not 1 <= getattr(self, name) <= MOST:
                raise ValueError(f"{name} must be within 1..{MOST}, got {getattr(self, name)}")
        limit = self.max_response_len
        if limit is not None and not 1 <= limit <= self.depth * self.segment_len:
            raise ValueError(
                f"max_response_len must be within 1..depth x segment_len = {self.depth * self.segment_len}, got {limit}"
            )

    @property
    def response_limit(self) -> int:
        """Most tokens in a trajectory."""
        return self.max_response_len or self.depth * self.segment_len

    def num_segments(self, length: int) -> int:
        """Segments that `length` response tokens take: a cut inside a segment counts as one."""
        return -(-length // self.segment_len)
