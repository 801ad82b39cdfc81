"""Seeds that depend on what is sampled and never on when."""

from treepo.utils.hashing import digest_of_parts


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed: the same for the same parts on every machine, another one for other parts."""
    encoded = (f"{type(part).__name__}:{part}".encode() for part in parts)
    return int.from_bytes(digest_of_parts(encoded, length_bytes=4), "little") >> 1
