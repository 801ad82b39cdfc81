"""Which slots each query of a forward sees."""

import numpy as np
import torch

WORTH_A_THREAD = 2048
"""Key visits (queries x their lengths) below which a second thread costs more than it saves."""


class Table:
    """Query i sees the first lens[i] slots of row rows[i].

    starts, counts int32 [R, E]: per row its slots as extents. slots int32 [R, C]: the same, slot by slot. rows, lens
    int32 [N]. bounds int32 [threads + 1]: where each thread's queries begin.
    """

    def __init__(
        self, starts: np.ndarray, counts: np.ndarray, slots: np.ndarray, rows: np.ndarray, lens: np.ndarray
    ) -> None:
        self.starts, self.counts, self.slots = starts, counts, slots
        self.rows, self.lens = rows.astype(np.int32), lens.astype(np.int32)
        self.bounds = shares(self.lens, torch.get_num_threads())


def shares(lens: np.ndarray, num_threads: int) -> np.ndarray:
    """int32 [threads + 1]: where each thread's queries begin, so that all read about as many keys."""
    visits = np.cumsum(lens)
    num_threads = max(1, min(num_threads, int(visits[-1]) // WORTH_A_THREAD))
    inner = np.searchsorted(visits, visits[-1] * np.arange(1, num_threads) / num_threads)
    return np.concatenate([[0], inner, [len(lens)]]).astype(np.int32)
