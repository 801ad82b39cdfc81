"""What one forward of the engine computes, and who draws from its logits."""

import numpy as np

from treepo.engine.torch.prefixes import Run
from treepo.engine.torch.rows import Rows
from treepo.engine.torch.table import Table

LEAST_TOKENS = 16
"""Smaller forwards are filled up: for a handful of rows matrix products take other paths, which round differently."""


class Batch:
    """Tokens side by side: prefix tokens of requests that enter, then the last token of each running row.

    Requests that enter with the same prefix draw from the same logits: it is computed once.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.token_rows: list[np.ndarray] = []
        self.positions: list[np.ndarray] = []
        self.is_new: list[np.ndarray] = []
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

    def fill_up(self) -> None:
        """Repeat a token whose results nobody looks at, so that a row's bits do not depend on who else is there."""
        rest = LEAST_TOKENS - self.num_tokens
        if rest > 0:
            row, position = self.token_rows[0][0], self.positions[0][0]
            self._add(np.full(rest, row), np.full(rest, position), np.zeros(rest, bool))
        self.logits_at.extend([self.num_tokens - 1] * (LEAST_TOKENS - len(self.logits_at)))

    def _add(self, rows: np.ndarray, positions: np.ndarray, is_new: np.ndarray) -> None:
        self.token_rows.append(rows)
        self.positions.append(positions)
        self.is_new.append(is_new)
        self.num_tokens += len(rows)

    def table(self) -> Table:
        """What each token sees: its row up to itself."""
        rows, positions = np.concatenate(self.token_rows), np.concatenate(self.positions)
        return Table(self.rows.starts, self.rows.counts, self.rows.slots, rows, positions + 1)

    def new_slots(self) -> tuple[np.ndarray, np.ndarray]:
        """(tokens whose keys and values are stored, their slots): int64, int32."""
        new = np.flatnonzero(np.concatenate(self.is_new))
        rows, positions = np.concatenate(self.token_rows)[new], np.concatenate(self.positions)[new]
        return new, self.rows.slots[rows, positions]

    def inputs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(token ids, positions, tokens whose logits are wanted), int64."""
        rows, positions = np.concatenate(self.token_rows), np.concatenate(self.positions)
        return self.rows.ids[rows, positions].astype(np.int64), positions, np.array(self.logits_at, np.int64)

    def drawing(self) -> np.ndarray:
        """int64: the rows that draw a token."""
        return np.array(self.drawing_rows, np.int64)

    def logits_of(self) -> np.ndarray:
        """int64: per drawing row, which of the logits it draws from."""
        return np.array(self.draws_from, np.int64)
