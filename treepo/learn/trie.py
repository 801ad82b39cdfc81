"""The distinct tokens of some trajectories, each below its predecessor, in depth-first order.

Kept as runs: pieces of sequences that were new when they came. A run hangs below a token of another one, and the runs
that hang below it follow it, those from its end first, so that the tokens at or below any token are one range.
"""

from dataclasses import dataclass, field

import numpy as np

Place = tuple[int, int]
"""(run, tokens of it): the point after so many tokens of a run."""

Piece = tuple[int, int, int]
"""(run, first token, past the last one)."""

START: Place = (0, 0)


@dataclass(eq=False)
class PrefixTrie:
    """Sequences merged where they begin alike; all begin with the same token.

    runs: token ids of each; above: where each hangs; below: the run that begins with a token at a place.
    """

    runs: list[np.ndarray] = field(default_factory=list)
    above: list[Place] = field(default_factory=list)
    below: dict[tuple[int, int, int], int] = field(default_factory=dict)

    def extend(self, place: Place, ids: np.ndarray) -> tuple[list[Piece], Place]:
        """Go on from a place with these tokens; returns the pieces of runs that they are, and where they end."""
        pieces = []
        run, offset = place
        while len(ids):
            if not self.runs:
                self.runs.append(ids)
                self.above.append((-1, 0))
            common = _num_equal(self.runs[run][offset:], ids)
            if common:
                pieces.append((run, offset, offset + common))
                offset, ids = offset + common, ids[common:]
                continue
            key = run, offset, int(ids[0])
            run, offset = self.below.setdefault(key, len(self.runs)), 0
            if run == len(self.runs):
                self.runs.append(ids)
                self.above.append(key[:2])
        return pieces, (run, offset)

    @property
    def num_tokens(self) -> int:
        """Distinct tokens."""
        return sum(map(len, self.runs))

    def laid_out(self) -> "Layout":
        """All tokens in depth-first order."""
        hanging: list[list[tuple[int, int]]] = [[] for _ in self.runs]
        for run, (parent, offset) in enumerate(self.above):
            if parent >= 0:
                hanging[parent].append((offset, run))
        order, stack = [], [0]
        while stack:
            run = stack.pop()
            order.append(run)
            # The last one put on the stack comes next: the one that hangs deepest, and of several there the first.
            stack.extend(child for _, child in sorted(hanging[run], key=lambda at: (at[0], -at[1])))
        lengths = np.array([len(self.runs[run]) for run in order])
        starts = np.empty(len(order), np.int64)
        starts[order] = np.cumsum(lengths) - lengths
        return self._positioned(order, starts, hanging)

    def _positioned(self, order: list[int], starts: np.ndarray, hanging: list[list[tuple[int, int]]]) -> "Layout":
        total = self.num_tokens
        positions, ends, parents = np.empty(total, np.int64), np.empty(total, np.int64), np.arange(-1, total - 1)
        depths, past = [0] * len(order), [0] * len(order)
        for run in order:
            parent, offset = self.above[run]
            depths[run] = depths[parent] + offset if parent >= 0 else 0
            first, length = starts[run], len(self.runs[run])
            positions[first : first + length] = np.arange(depths[run], depths[run] + length)
            parents[first] = starts[parent] + offset - 1 if parent >= 0 else -1
        for run in reversed(order):
            first, last = int(starts[run]), int(starts[run]) + len(self.runs[run])
            end = last
            # The tokens of a run end where the last run ends that hangs at or below them.
            for offset, child in sorted(hanging[run], reverse=True):
                ends[first + offset : last] = end
                end, last = max(end, past[child]), first + offset
            ends[first:last] = end
            past[run] = end
        token_ids = np.concatenate([self.runs[run] for run in order]).astype(np.int64)
        return Layout(token_ids, positions, ends, parents, starts)


@dataclass(frozen=True, eq=False)
class Layout:
    """Tokens in depth-first order, all int64 [T]: ids, depths, one past the last token at or below each, and the token
    above each (-1 for the first). starts: per run, where it begins."""

    token_ids: np.ndarray
    positions: np.ndarray
    subtree_ends: np.ndarray
    parents: np.ndarray
    starts: np.ndarray

    def indices(self, pieces: list[Piece]) -> np.ndarray:
        """Where the tokens of some pieces lie."""
        return np.concatenate([np.arange(self.starts[run] + a, self.starts[run] + b) for run, a, b in pieces])


def _num_equal(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens two sequences have in common from their beginning."""
    length = min(len(one), len(other))
    differ = one[:length] != other[:length]
    first = int(differ.argmax()) if length else 0
    return first if length and differ[first] else length
