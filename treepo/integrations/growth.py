"""What the trainers of other libraries are told of growing: its strategies, and the size of trees."""

from collections.abc import Mapping
from dataclasses import dataclass

from treepo.credit import Estimator, TreePO
from treepo.data.problem import Decode
from treepo.errors import SettingError
from treepo.grow import (
    Backtrack,
    Branching,
    EvenBranching,
    Fallback,
    GrowthRules,
    InitialFork,
    Stopping,
    StopRules,
    TreeShape,
)


@dataclass(frozen=True)
class GrowthSections:
    """The strategies of growing, named as in a recipe."""

    initial_fork: InitialFork = InitialFork()
    branching: Branching = EvenBranching()
    fallback: Fallback = Backtrack()
    stopping: Stopping = StopRules(answer="never")
    """The rewards of other trainers do not say where an answer ends."""

    def rules(self, shape: TreeShape, decode: Decode) -> GrowthRules:
        """How trees grow."""
        strategies = (self.initial_fork, self.branching, self.fallback, self.stopping)
        return GrowthRules(shape, *strategies, decode=decode)

    def check(self, section: str, estimator: Estimator, depth: int) -> None:
        """Raise SettingError for what no other trainer can do. section: that of the estimator."""
        if isinstance(self.stopping, StopRules) and self.stopping.answer != "never":
            message = "must be 'never': the trainer's rewards do not say where an answer ends; use stop_strings"
            raise SettingError("stopping.answer", message, self.stopping.answer)
        if isinstance(estimator, TreePO) and not estimator.with_root and depth == 1:
            message = "false needs a depth of at least 2: no group but the root's"
            raise SettingError(f"{section}.with_root", message)


@dataclass(frozen=True)
class TreeSize:
    """How large a tree grows, besides its leaves and its longest path, which the trainer knows by other names."""

    depth: int = 8
    """Most segments in a response."""

    segment_len: int | None = None
    """Most tokens of a segment; the longest response / depth, rounded up, if not given."""

    num_children: int = 2
    """Children of a path when it forks."""

    def shape(self, width: int, longest: int, names: Mapping[str, str]) -> TreeShape:
        """The shape of trees with so many leaves, whose longest path has so many tokens.

        names: the trainer's settings for those of TreeShape, for errors. Raises SettingError.
        """
        segment_len = self.segment_len or -(-longest // max(self.depth, 1))
        try:
            return TreeShape(width, self.depth, segment_len, self.num_children, max_response_len=longest)
        except SettingError as error:
            if error.path == "max_response_len":
                message = f"times {names['depth']} ({self.depth}) must reach {names['max_response_len']} = {longest}"
                raise SettingError(names["segment_len"], message, self.segment_len) from error
            raise SettingError(names[error.path], error.message, error.value) from error
