"""The seam between what trees say and what the optimiser minimises."""

from typing import ClassVar, Protocol

from torch import Tensor

from treepo.learn.loss.terms import Terms


class Loss(Protocol):
    """Sum over trajectories and their tokens of weight x loss, a scalar with gradient.

    A term stands for all trajectories that share it, so a loss has to be linear in the advantage on either side of 0
    (then `positive` and `negative` say all about them), or to be computed per trajectory from sums of what its tokens
    contribute (`Terms.trajectory_sums`). One that is neither needs `train.packing = false`, where every term belongs to
    one trajectory.
    """

    per_trajectory: ClassVar[bool]
    """Whether it needs one advantage per trajectory (`Terms.advantages`); otherwise each token may have its own."""

    def __call__(self, terms: Terms) -> Tensor: ...

    def num_clipped(self, terms: Terms) -> Tensor:
        """How many tokens of trajectories, of those with an advantage, are held back by a bound; a scalar."""
        ...
