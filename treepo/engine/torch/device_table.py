"""The block table of the running requests, kept on the GPU."""

import numpy as np
import torch
from torch import Tensor

from treepo.engine.torch.attention import BlockTable
from treepo.engine.transfer import send


class DeviceTable:
    """Sends the slots of all rows once, and from then on those that changed.

    host: the array that the slots on the device were sent from; another one, such as a wider one, is sent whole.
    """

    def __init__(self) -> None:
        self.host: np.ndarray | None = None
        self.slots = torch.empty(0, dtype=torch.int32)
        self.table: BlockTable | None = None
        self.queries: tuple[Tensor, Tensor] = self.slots, self.slots

    def update(self, table: BlockTable, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return slots int32 [R, C], rows and lens int32 [N] of the table of a forward; its layers share them."""
        if self.table is not table:
            is_known = table.changed is not None and table.slots is self.host
            changes = [table.changed, table.slots.reshape(-1)[table.changed]] if is_known else [table.slots]
            rows, lens, *sent = send([table.rows, table.lens, *changes], device)
            if is_known:
                self.slots.view(-1).scatter_(0, *sent)
            else:
                # Not the host's own memory, which changes.
                self.slots, self.host = sent[0].clone(), table.slots
            self.table, self.queries = table, (rows, lens)
        return self.slots, *self.queries
