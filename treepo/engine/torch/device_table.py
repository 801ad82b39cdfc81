"""The block table of the running requests, kept on the GPU."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from treepo.engine.transfer import send


class DeviceTable:
    """Sends the slots of all rows once, and from then on those that changed.

    host: the array that the slots on the device were sent from; another one, such as a wider one, is sent whole.
    """

    def __init__(self) -> None:
        self.host: np.ndarray | None = None
        self.slots = torch.empty(0, dtype=torch.int32)

    def update(
        self, slots: np.ndarray, changed: np.ndarray | None, others: Sequence[np.ndarray], device: torch.device
    ) -> tuple[Tensor, list[Tensor]]:
        """Return slots int32 [R, C] on the device, and other arrays that are sent with what changed of them.

        changed int64 [K]: places in the flat slots; None if all may have changed.
        """
        is_known = changed is not None and slots is self.host
        changes = [changed, slots.reshape(-1)[changed]] if is_known else [slots]
        sent = send([*others, *changes], device)
        num_others = len(others)
        if is_known:
            self.slots.view(-1).scatter_(0, *sent[num_others:])
        else:
            # Not the host's own memory, which changes.
            self.slots, self.host = sent[num_others].clone(), slots
        return self.slots, sent[:num_others]
