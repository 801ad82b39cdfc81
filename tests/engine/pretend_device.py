"""A device that is not there: tensors that lie in the host's memory and say that they do not.

Under `PretendDevice` tensors on "meta" hold numbers, and all that happens to them is counted.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")
"""Operations whose result the host needs to go on."""

VIEWS = (
    "view",
    "_unsafe_view",
    "t",
    "transpose",
    "slice",
    "select",
    "expand",
    "detach",
    "unsqueeze",
    "squeeze",
    "alias",
)
VIEWS += ("split", "split_with_sizes", "as_strided", "permute", "_reshape_alias")
"""Operations without a kernel."""


class DeviceTensor(Tensor):
    """A tensor on the device; held: its numbers."""

    @staticmethod
    def __new__(cls, held: Tensor) -> "DeviceTensor":
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=0, dtype=held.dtype, device=DEVICE
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of PretendDevice")


def held(x: Any) -> Any:
    """The numbers of a tensor, or of those in a list."""
    if isinstance(x, (list, tuple)):
        return type(x)(map(held, x))
    return x.held if isinstance(x, DeviceTensor) else x


def on_device(x: Any) -> Any:
    if isinstance(x, (list, tuple)):
        return type(x)(map(on_device, x))
    return DeviceTensor(x) if isinstance(x, Tensor) else x


def is_on_device(x: Any) -> bool:
    return any(map(is_on_device, x)) if isinstance(x, (list, tuple)) else isinstance(x, DeviceTensor)


class PretendDevice(TorchDispatchMode):
    """Runs what is asked of the device on the host, and counts.

    counts: waits (of the host for the device), sent and fetched (copies), casts (copies of weights in another type),
    launches. weights: addresses of those that were moved.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.weights: set[int] = set()

    def move(self, module: nn.Module) -> None:
        """Move a module's parameters and buffers to the device."""
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    self.weights.add(parameter.data_ptr())
                    part._parameters[name] = nn.Parameter(DeviceTensor(parameter.detach()), requires_grad=False)
            for name, buffer in part._buffers.items():
                part._buffers[name] = on_device(buffer)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        is_held = is_on_device(args)
        wanted = kwargs.get("device")
        lands = is_held if wanted is None else torch.device(wanted) == DEVICE
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        output = func(*held(args), **kwargs)
        if is_held or lands:
            self._count(func.overloadpacket.__name__, args, kwargs, is_held, lands)
        return on_device(output) if lands else output

    def _count(self, name: str, args: Any, kwargs: Any, is_held: bool, lands: bool) -> None:
        is_copy = name in ("_to_copy", "copy_")
        source: Any = args[1 if name == "copy_" else 0] if is_copy else None
        is_sent = is_copy and lands and not isinstance(source, DeviceTensor) and source.dim() > 0
        is_fetched = is_copy and is_held and not lands
        masks = (i for i in args[1] if i is not None) if name in ("index", "index_put_") else ()
        is_masked = any(i.dtype in (torch.bool, torch.uint8) for i in masks)
        blocks = is_sent and not kwargs.get("non_blocking")
        self.counts["sent"] += is_sent
        self.counts["fetched"] += is_fetched
        self.counts["waits"] += is_fetched or blocks or is_masked or name in WAITS
        is_cast = is_copy and kwargs.get("dtype") is not None and isinstance(source, DeviceTensor)
        self.counts["casts"] += is_cast and source.held.data_ptr() in self.weights
        self.counts["launches"] += lands and name not in VIEWS and not is_sent
