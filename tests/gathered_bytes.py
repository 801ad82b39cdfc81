"""How many bytes a process holds at a time of what it allocates, counted storage by storage."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class HeldBytes(TorchDispatchMode):
    """Inside, `peak` is the most bytes of tensors on the CPU that were made since and lived at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        # A result may be a view of what was given.
        known = {self._key(leaf) for leaf in tree_leaves((args, kwargs)) if self._is_counted(leaf)}
        for leaf in tree_leaves(found):
            if self._is_counted(leaf) and (key := self._key(leaf)) not in self.held and key not in known:
                storage = leaf.untyped_storage()
                self.held[key] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, key)
        return found

    def _forget(self, key: int) -> None:
        self.now -= self.held.pop(key, 0)

    @staticmethod
    def _is_counted(leaf: Any) -> bool:
        return type(leaf) is Tensor and leaf.device == torch.device("cpu")

    @staticmethod
    def _key(leaf: Tensor) -> int:
        return leaf.untyped_storage()._cdata
