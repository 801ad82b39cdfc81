"""The size of a tree: the paper's four numbers, and the settings that its authors' release adds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor

from treepo.errors import SettingError

MAX_SIZE = 1_000_000


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

    min_response_len: int = 1
    """Fewest tokens of a trajectory that counts. A shorter one is dropped and replaced, up to `width` times per tree;
    after that short ones count too, so that every tree ends."""

    token_budget: int | None = None
    """Response tokens per tree, summed over its trajectories: there are as many trajectories as the budget allows,
    within min_width..width. If not given, there are `width`, whatever their lengths."""

    min_width: int = 1
    """Fewest trajectories of a tree with a token budget, whatever their lengths."""

    align: int = 1
    """Tokens per block of the engine's cache: the first segment is lengthened, and the last one shortened, so that
    paths fork one token past a boundary between blocks. 1 changes nothing, and suits the embedded engine."""

    def __post_init__(self) -> None:
        for name in ("width", "depth", "segment_len", "num_children", "align"):
            if not 1 <= getattr(self, name) <= MAX_SIZE:
                raise SettingError(name, f"must be within 1..{MAX_SIZE}", getattr(self, name))
        deepest, limit = self.depth * self.segment_len, self.max_response_len
        if limit is not None and not 1 <= limit <= deepest:
            raise SettingError("max_response_len", f"must be within 1..depth x segment_len = {deepest}", limit)
        if not 1 <= self.min_response_len <= self.max_response_tokens:
            message = f"must be within 1..{self.max_response_tokens}, the longest response"
            raise SettingError("min_response_len", message, self.min_response_len)
        if self.token_budget is not None and self.token_budget < self.min_response_len:
            message = f"must allow a trajectory of min_response_len = {self.min_response_len} tokens"
            raise SettingError("token_budget", message, self.token_budget)
        if not 1 <= self.min_width <= self.width:
            raise SettingError("min_width", f"must be within 1..width = {self.width}", self.min_width)

    @property
    def max_response_tokens(self) -> int:
        """Most tokens in a trajectory."""
        return self.max_response_len or self.depth * self.segment_len

    @property
    def max_tree_tokens(self) -> int:
        """Tokens of a tree of full width that forks into `num_children` and none of whose paths ends early."""
        paths = [min(self.width, self.num_children ** min(level + 1, 20)) for level in range(self.depth)]
        return sum(paths) * self.segment_len

    @property
    def first_len(self) -> int:
        """Most tokens of the first segment."""
        return self.segment_len

    def segment_at(self, response_len: int) -> int:
        """Most tokens of the segment that begins after so many response tokens."""
        return self.first_len if response_len == 0 else self.segment_len

    def num_segments(self, length: int) -> int:
        """Segments that `length` response tokens take; a part of a segment counts as one."""
        return -(-max(length - self.first_len, 0) // self.segment_len) + (length > 0)

    def boundary(self, index: int) -> int:
        """Response tokens in the first `index` segments."""
        return self.first_len + (index - 1) * self.segment_len if index > 0 else 0

    def room(self, response_len: int) -> int:
        """Most tokens that may follow so many response tokens: whole segments until the deepest one has begun.

        A turn may end in the middle of the deepest one; then one more may follow.
        """
        num_segments = max((self.boundary(self.depth - 1) - response_len) // self.segment_len + 1, 1)
        return min(self.max_response_tokens - response_len, num_segments * self.segment_len)

    def for_prompt(self, prompt_len: int, num_first: int) -> "TreeShape":
        """The shape with its first segment aligned, for a prompt of so many tokens with `num_first` children.

        If a segment is not a whole number of blocks, only some boundaries can be aligned: the last one at which a tree
        of full width forks is, where most paths begin. If the first segment would be the whole response, none is.
        """
        for index in range(_levels(num_first, self.width, self.num_children), 0, -1):
            more = (1 - prompt_len - self.boundary(index)) % self.align
            if self.boundary(index) + more < self.max_response_tokens:
                return AlignedShape(**vars(self), first=self.first_len + more) if more else self
        return self

    def within_budget(self, finished_lens: Sequence[int], next_len: float) -> "TreeShape":
        """The shape with the width that the token budget allows if the next trajectories have about `next_len` tokens.

        F + floor((budget - tokens of the F finished ones) / next_len), within min_width..width. Source: the authors'
        release, which estimates next_len as the active paths' mean length plus a segment, and in a fallback as the
        finished trajectories' mean length.
        """
        if self.token_budget is None:
            return self
        affordable = len(finished_lens) + floor((self.token_budget - sum(finished_lens)) / next_len)
        return replace(self, width=min(max(affordable, self.min_width), self.width))


@dataclass(frozen=True)
class AlignedShape(TreeShape):
    """The shape of one tree whose first segment is longer than the others."""

    first: int = 0
    """Tokens of the first segment."""

    @property
    def first_len(self) -> int:
        return self.first


def _levels(num_paths: int, width: int, num_children: int) -> int:
    """How often paths have to fork until there are `width` of them; at least 1, also where they never fork."""
    levels = 1
    while num_children > 1 and num_paths * num_children**levels < width:
        levels += 1
    return levels
