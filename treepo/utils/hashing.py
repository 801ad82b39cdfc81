"""Short BLAKE2b digests: the same on every machine and in every run, unlike `hash`."""

import hashlib
from collections.abc import Iterable


def digest(data: str | bytes, size: int = 8) -> bytes:
    """BLAKE2b of a text (as UTF-8) or of bytes, `size` bytes long."""
    return hashlib.blake2b(data.encode() if isinstance(data, str) else data, digest_size=size).digest()


def digest_of_parts(parts: Iterable[bytes], length_bytes: int = 8) -> bytes:
    """8 bytes that differ for different sequences of parts: each goes in behind its length, in `length_bytes` bytes."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(len(part).to_bytes(length_bytes, "little") + part)
    return state.digest()
