"""Seeds that depend on what is sampled and never on when."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that is the same for the same parts on every machine and differs for different ones."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = f"{type(part).__name__}:{part}".encode()
        digest.update(len(data).to_bytes(4, "little") + data)
    return int.from_bytes(digest.digest(), "little") >> 1
