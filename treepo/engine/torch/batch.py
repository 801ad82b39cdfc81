"""What one forward of the engine computes, and who draws from its logits."""

from dataclasses import dataclass

import numpy as np

from treepo.engine.torch.prefixes import Run
from treepo.engine.torch.rows import Rows
from treepo.engine.torch.table import Table

LEAST_TOKENS = 16
"""Smaller forwards are filled up: for a handful of rows matrix products take other paths, which round differently."""


@dataclass(frozen=True, eq=False)
class Layout:
    """N tokens of a forward, and the R rows that draw from its M logits.

    ids, positions int64 [N]; table: what each token sees, its row up to itself. new int64: the tokens whose keys and
    values are stored, in new_slots int32. logits_at int64 [M]: tokens whose logits are wanted. drawing int64 [R]: rows
    that draw, draws_from int64 [R]: which of the logits.
    """

    ids: np.ndarray
    positions: np.ndarray
    table: Table
    new: np.ndarray
    new_slots: np.ndarray
    logits_at: np.ndarray
    drawing: np.ndarray
    draws_from: np.ndarray


class Batch:
    """Tokens side by side: prefix tokens of requests that enter, then the last token of each running row.

    Requests that enter with the same prefix draw from the same logits: it is computed once.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.num_tokens = 0
        self.logits_at: list[int] = []
        self.drawing_rows: list[int] = []
        self.draws_from: list[int] = []
        self.asked: dict[int, int] = {}

    def add_admitted(self, row: int, num_known: int, run: Run) -> None:
        """The tokens of a row's prefix that are not known, and the logits at its end."""
        self.drawing_rows.append(row)
        if num_known == self.rows.num_known[row] and id(run) in self.asked:
            self.draws_from.append(self.asked[id(run)])
            return
        end = int(self.rows.num_known[row])
        positions = np.arange(min(num_known, end - 1), end)
        self._add(np.full(len(positions), row), positions, positions >= num_known)
        self.asked[id(run)] = len(self.logits_at)
        self.draws_from.append(len(self.logits_at))
        self.logits_at.append(self.num_tokens - 1)

    def add_running(self, rows: np.ndarray) -> None:
        """The last token of each row, whose next slot it takes."""
        if len(rows):
            self.rows.place_last_tokens(rows)
            first = self.num_tokens
            self._add(rows, self.rows.num_known[rows] - 1, np.ones(len(rows), bool))
            self.draws_from.extend(range(len(self.logits_at), len(self.logits_at) + len(rows)))
            self.logits_at.extend(range(first, self.num_tokens))
            self.drawing_rows.extend(rows.tolist())

    def _add(self, rows: np.ndarray, positions: np.ndarray, is_new: np.ndarray) -> None:
        self.parts.append((rows, positions, is_new))
        self.num_tokens += len(rows)

    def laid_out(self) -> "Layout":
        """All that was added, filled up with a token whose results nobody looks at: so a row's bits do not depend on
        who else is there."""
        rest = LEAST_TOKENS - self.num_tokens
        if rest > 0:
            rows, positions, _ = self.parts[0]
            self._add(np.full(rest, rows[0]), np.full(rest, positions[0]), np.zeros(rest, bool))
        self.logits_at.extend([self.num_tokens - 1] * (LEAST_TOKENS - len(self.logits_at)))
        rows, positions, is_new = (np.concatenate(part) for part in zip(*self.parts, strict=True))
        held, new = self.rows, np.flatnonzero(is_new)
        return Layout(
            ids=held.ids[rows, positions].astype(np.int64),
            positions=positions,
            table=Table(held.starts, held.counts, held.slots, rows, positions + 1),
            new=new,
            new_slots=held.slots[rows[new], positions[new]],
            logits_at=np.array(self.logits_at, np.int64),
            drawing=np.array(self.drawing_rows, np.int64),
            draws_from=np.array(self.draws_from, np.int64),
        )
