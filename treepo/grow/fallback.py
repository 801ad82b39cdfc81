"""Which finished trajectory to resume, and where it is cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from treepo.grow.shape import TreeShape
from treepo.tree import ROOT, StopReason


@dataclass(frozen=True)
class Finished:
    """One finished trajectory: its leaf, its response tokens, why it ended."""

    leaf: int
    response_len: int
    stop: StopReason


@dataclass(frozen=True)
class Cut:
    """Resume on the way to `leaf` after the first `keep` response tokens; keep = 0 is the prompt."""

    leaf: int
    keep: int


FROM_PROMPT = Cut(ROOT, 0)


class Fallback(Protocol):
    """At least one cut, in the order in which they are used; the sampler asks again when it has used all."""

    def __call__(self, finished: Sequence[Finished], shape: TreeShape, rng: np.random.Generator) -> list[Cut]: ...


@dataclass(frozen=True)
class RandomBoundary:
    """A random segment boundary of the trajectories that ended with an answer or EOS, in random order (the default).

    A response of L tokens has n = ceil(L / segment_len) windows; k ~ U{1..n} of them are dropped from the end, so the
    last one always goes and the prompt has probability 1/n. Without such a trajectory: from the prompt.
    """

    def __call__(self, finished: Sequence[Finished], shape: TreeShape, rng: np.random.Generator) -> list[Cut]:
        usable = [f for f in finished if f.stop in (StopReason.ANSWER, StopReason.EOS)]
        cuts = []
        for i in rng.permutation(len(usable)):
            windows = -(-usable[i].response_len // shape.segment_len)
            dropped = int(rng.integers(1, windows + 1))
            cuts.append(Cut(usable[i].leaf, (windows - dropped) * shape.segment_len))
        return cuts or [FROM_PROMPT]
