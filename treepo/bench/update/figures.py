"""What the runs of an update say."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from treepo.bench.turns import Progress, median_ratio, time_in_turns
from treepo.bench.update.contenders import PACKED, PADDED, UpdateContender
from treepo.bench.update.memory import peak_bytes


@dataclass(frozen=True)
class Measurement:
    """One contender: its seconds per measured round, and what a run of it takes.

    num_forwarded: tokens, with padding. pack_seconds: of `seconds`, before the first forward. peak_bytes: most bytes of
    tensors alive at a time beyond those before the run. gradient_difference: the largest of an element to that of the
    padded contender, over the largest element there.
    """

    name: str
    num_forwarded: int
    seconds: tuple[float, ...]
    pack_seconds: tuple[float, ...]
    peak_bytes: int
    gradient_difference: float


@dataclass(frozen=True)
class Figures(Measurement):
    """One contender compared with the packed one.

    token_ratio, time_ratio, memory_ratio: its tokens, seconds (median over rounds) and peak memory over the packed
    one's. time_of_ideal, memory_of_ideal: the latter two over token_ratio, 1 where packing saves as much as it saves
    tokens.
    """

    token_ratio: float
    time_ratio: float
    time_of_ideal: float
    memory_ratio: float
    memory_of_ideal: float


def measure(contenders: Sequence[UpdateContender], repeats: int, progress: Progress) -> list[Measurement]:
    """Time all contenders in turns, then run each once more for its memory and gradients."""
    seconds = time_in_turns(contenders, repeats, progress)
    pack_seconds = [tuple(c.pack_seconds[-repeats:]) for c in contenders]
    peaks = [_peak(c) for c in contenders]
    padded = next(c for c in contenders if c.name == PADDED).gradients()
    return [
        Measurement(c.name, c.num_forwarded(), whole, packing, peak, relative_difference(c.gradients(), padded))
        for c, whole, packing, peak in zip(contenders, seconds, pack_seconds, peaks, strict=True)
    ]


def compare(measured: Sequence[Measurement]) -> tuple[Figures, ...]:
    """The figures of all contenders; of the packed one all ratios are 1."""
    packed = next(m for m in measured if m.name == PACKED)
    return tuple(_compare(m, packed) for m in measured)


def relative_difference(gradients: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """The largest difference of any two elements, over the largest element of the reference."""
    pairs = zip(gradients, reference, strict=True)
    difference = max(float((one.float() - other.float()).abs().max()) for one, other in pairs)
    return difference / max(float(other.abs().max()) for other in reference)


def _compare(own: Measurement, packed: Measurement) -> Figures:
    tokens = own.num_forwarded / packed.num_forwarded
    time = median_ratio(own.seconds, packed.seconds)
    memory = own.peak_bytes / packed.peak_bytes
    return Figures(
        **vars(own),
        token_ratio=tokens,
        time_ratio=time,
        time_of_ideal=time / tokens,
        memory_ratio=memory,
        memory_of_ideal=memory / tokens,
    )


def _peak(contender: UpdateContender) -> int:
    contender.prepare()
    gc.collect()
    return peak_bytes(contender.run, contender.start.device)
