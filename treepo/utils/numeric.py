"""Seeds and digests that are the same on every machine, softmax, shares in whole numbers, common prefixes."""

import hashlib
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np

MAX_LOG_RATIO = 20.0
"""Bound of log-ratios of probabilities before they are exponentiated."""


def softmax(logits: np.ndarray) -> np.ndarray:
    """float64 [n]: exp(logits) scaled to sum to 1; the largest logit is subtracted first, so nothing overflows."""
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def largest_remainder(total: int, shares: Sequence[float] | Sequence[Fraction]) -> list[int]:
    """Whole numbers that add up to `total`, each less than 1 away from share x total. shares: they sum to 1.

    Source: Hamilton's method of apportionment. The largest remainders are rounded up; of equal ones, the first.
    """
    quotas = [share * total for share in shares]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda i: (counts[i] - quotas[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def common_prefix_len(one: np.ndarray, other: np.ndarray) -> int:
    """Return how many tokens two sequences have in common from their beginning."""
    length = min(len(one), len(other))
    differ = one[:length] != other[:length]
    first = int(differ.argmax()) if length else 0
    return first if length and differ[first] else length


def digest(data: str | bytes, size: int = 8) -> bytes:
    """BLAKE2b of a text (as UTF-8) or of bytes, `size` bytes long."""
    return hashlib.blake2b(data.encode() if isinstance(data, str) else data, digest_size=size).digest()


def digest_of_parts(parts: Iterable[bytes], length_bytes: int = 8) -> bytes:
    """8 bytes that differ for different sequences of parts: each goes in behind its length, in `length_bytes` bytes."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(len(part).to_bytes(length_bytes, "little") + part)
    return state.digest()


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed: the same for the same parts on every machine, another one for other parts."""
    encoded = (f"{type(part).__name__}:{part}".encode() for part in parts)
    return int.from_bytes(digest_of_parts(encoded, length_bytes=4), "little") >> 1
