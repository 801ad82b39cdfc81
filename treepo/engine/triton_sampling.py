"""Drawing tokens in one Triton kernel, for GPUs: logits are read in their own type, nothing of their size is written,
and no row is sorted.

What top-k and top-p keep is found by narrowing: probabilities are positive floats, whose bits as a whole number rise
with them, and a pass over a row sums what lies beyond four of them, so 14 passes find the least that is kept.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalOperand=false, reportUnsupportedDunderAll=false
# (Triton kernels are launched by indexing them, and computed with as if they were tensors)

TILE = 2048
"""Logits that a program reads at a time."""

OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}


def draw_fused(
    logits: Tensor, thresholds: Tensor, tensors: Sequence[Tensor], *, has_greedy: bool, truncates: bool
) -> Tensor:
    """Do what `treepo.engine.sampling.draw` does; logits [S, V] may be float32, bfloat16 or float16."""
    num_samples, size = logits.shape
    drawn = torch.empty(2, num_samples, dtype=torch.int32, device=logits.device)
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    kinds = {"HAS_GREEDY": has_greedy, "TRUNCATES": truncates}
    arguments = logits, thresholds, *tensors, drawn, size, logits.stride(0)
    _draw[(num_samples,)](*arguments, **kinds, **tile_sizes(size), **OPTIONS)
    return drawn


def tile_sizes(vocab_size: int) -> dict[str, int]:
    """Return the constants with which `_draw` is compiled: logits of a tile, and tiles of a row."""
    return {"TILE": TILE, "TILES": triton.next_power_of_2(triton.cdiv(vocab_size, TILE))}


@triton.jit
def _load(row, first, size, divisor, TILE: tl.constexpr):
    """Logits by temperature, -inf beyond the last."""
    at = first + tl.arange(0, TILE)
    return tl.load(row + at, mask=at < size, other=float("-inf")).to(tl.float32) / divisor, at


@triton.jit
def _bits(x, top, lse, at, size):
    """Probabilities as whole numbers that rise with them; -2 beyond the last."""
    return tl.where(at < size, tl.exp(x - top - lse).to(tl.int32, bitcast=True), -2)


@triton.jit
def _beyond(row, size, divisor, top, lse, cuts, TILE: tl.constexpr):
    """How many probabilities have more bits than each of four cuts, and their sums."""
    count, mass = tl.zeros([4, TILE], tl.int32), tl.zeros([4, TILE], tl.float64)
    for first in range(0, size, TILE):
        x, at = _load(row, first, size, divisor, TILE)
        bits = _bits(x, top, lse, at, size)
        is_beyond = bits[None, :] > cuts[:, None]
        count += is_beyond.to(tl.int32)
        mass += tl.where(is_beyond, bits.to(tl.float32, bitcast=True)[None, :], 0.0).to(tl.float64)
    return tl.sum(count, 1), tl.sum(mass, 1)


@triton.jit
def _cuts(low, high):
    """Four from low to high - 1, between parts of about the same size."""
    step = tl.cdiv(high - low, 5)
    return tl.minimum(low + (tl.arange(0, 4) + 1) * step - 1, high - 1)


@triton.jit
def _narrowed(low, high, cuts, is_reached):
    """The least cut that does not reach what is wanted lies from low to high, as those of these cuts say that do."""
    return tl.max(tl.where(is_reached, cuts + 1, low), 0), tl.min(tl.where(is_reached, high, cuts), 0)


@triton.jit
def _cut(row, size, divisor, top, lse, k, p, TILE: tl.constexpr):
    """(bits, ties): kept are probabilities of more than these bits, and the first `ties` of those that equal them."""
    highest = tl.exp(-lse).to(tl.int32, bitcast=True)
    low, high = tl.full([], -1, tl.int32), highest
    while (low < high) & (k > 0):
        cuts = _cuts(low, high)
        count, mass = _beyond(row, size, divisor, top, lse, cuts, TILE)
        low, high = _narrowed(low, high, cuts, count >= k)
    cut = low
    count, mass = _beyond(row, size, divisor, top, lse, cut + tl.zeros([4], tl.int32), TILE)
    ties = tl.where(cut < 0, 0, k - tl.max(count, 0)).to(tl.float64)
    wanted = p * (tl.max(mass, 0) + ties * tl.maximum(cut, 0).to(tl.float32, bitcast=True))
    high = highest
    while (low < high) & (p < 1):
        cuts = _cuts(low, high)
        count, mass = _beyond(row, size, divisor, top, lse, cuts, TILE)
        low, high = _narrowed(low, high, cuts, mass >= wanted)
    if p < 1:
        count, mass = _beyond(row, size, divisor, top, lse, low + tl.zeros([4], tl.int32), TILE)
        most = tl.ceil((wanted - tl.max(mass, 0)) / tl.maximum(low, 1).to(tl.float32, bitcast=True))
        ties = tl.where((low == cut) & (most > ties), ties, most)
        cut = low
    return cut, ties


@triton.jit
def _kept(bits, seen, cut, ties, least, TRUNCATES: tl.constexpr):
    """(the probabilities that are kept, 0 for others; how many equal to the cut were seen so far)."""
    probs = tl.maximum(bits, 0).to(tl.float32, bitcast=True).to(tl.float64)
    if TRUNCATES:
        equal = (bits == cut).to(tl.int32)
        rank = seen + tl.cumsum(equal, 0) - equal
        is_kept = (bits > cut) | ((equal == 1) & (rank < ties))
        probs, seen = tl.where(is_kept & (probs >= least), probs, 0.0), seen + tl.sum(equal, 0)
    return probs, seen


@triton.jit
def _draw(
    logits, thresholds, divisors, argmax_wins, top_k, top_p, min_p, drawn, size, stride,
    HAS_GREEDY: tl.constexpr, TRUNCATES: tl.constexpr, TILE: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    sample, num_samples = tl.program_id(0), tl.num_programs(0)
    row, divisor = logits + sample.to(tl.int64) * stride, tl.load(divisors + sample)
    # Lanes sum on their own; -inf less -inf is no number.
    tops, sums = tl.full([TILE], -3.0e38, tl.float32), tl.zeros([TILE], tl.float32)
    for first in range(0, size, TILE):
        x, at = _load(row, first, size, divisor, TILE)
        higher = tl.maximum(tops, x)
        sums = sums * tl.exp(tops - higher) + tl.exp(x - higher)
        tops = higher
    top = tl.max(tops, 0)
    lse = tl.log(tl.sum(sums * tl.exp(tops - top), 0))
    cut, ties = tl.full([], -1, tl.int32), tl.full([], 0.0, tl.float64)
    least = tl.full([], 0.0, tl.float64)
    if TRUNCATES:
        k, p = tl.load(top_k + sample), tl.load(top_p + sample)
        cut, ties = _cut(row, size, divisor, top, lse, k, p, TILE)
        least = tl.load(min_p + sample) * tl.exp(-lse)
    # Sums of tiles come first, since summing up from token to token takes longer: only one tile needs that.
    tile, seen = tl.arange(0, TILES), tl.full([], 0, tl.int32)
    masses, seen_before = tl.zeros([TILES], tl.float64), tl.zeros([TILES], tl.int32)
    token = size
    for first in range(0, size, TILE):
        x, at = _load(row, first, size, divisor, TILE)
        seen_before = tl.where(tile == first // TILE, seen, seen_before)
        probs, seen = _kept(_bits(x, top, lse, at, size), seen, cut, ties, least, TRUNCATES)
        masses = tl.where(tile == first // TILE, tl.sum(probs, 0), masses)
        if HAS_GREEDY:
            token = tl.minimum(token, tl.min(tl.where(x == top, at, size), 0))
    is_greedy = False
    if HAS_GREEDY:
        is_greedy = tl.load(argmax_wins + sample) != 0
    threshold = tl.load(thresholds + sample) * tl.sum(masses, 0)
    # By rounding none may reach all of the sum; of logits that are no numbers none does.
    reached = (tl.cumsum(masses, 0) > threshold) & (masses > 0)
    chosen, last = tl.min(tl.where(reached, tile, TILES), 0), tl.max(tl.where(masses > 0, tile, 0), 0)
    chosen = tl.where(chosen < TILES, chosen, last)
    before = tl.sum(tl.where(tile < chosen, masses, 0.0), 0)
    seen = tl.sum(tl.where(tile == chosen, seen_before, 0), 0)
    x, at = _load(row, chosen * TILE, size, divisor, TILE)
    probs, seen = _kept(_bits(x, top, lse, at, size), seen, cut, ties, least, TRUNCATES)
    reached = (before + tl.cumsum(probs, 0) > threshold) & (probs > 0)
    found, last = tl.min(tl.where(reached, at, size), 0), tl.max(tl.where(probs > 0, at, 0), 0)
    found = tl.where(found < size, found, last)
    token = tl.minimum(tl.where(is_greedy, token, found), size - 1)
    logprob = tl.load(row + token).to(tl.float32) / divisor - top - lse
    tl.store(drawn + sample, token)
    tl.store(drawn + num_samples + sample, logprob.to(tl.int32, bitcast=True))
