"""Digests and seeds: runs on disk depend on them, so they never change."""

import hashlib

import pytest

from treepo.utils.numeric import derive_seed, digest, digest_of_parts

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("size", [6, 8, 16])
def test_a_digest_is_blake2b(size):
    expected = hashlib.blake2b("\u00e9".encode(), digest_size=size).digest()
    assert digest("\u00e9", size) == digest("\u00e9".encode(), size) == expected


def test_parts_are_told_apart_from_their_concatenation():
    assert len({digest_of_parts(parts) for parts in ([b"ab"], [b"a", b"b"], [b"", b"ab"], [b"ab", b""])}) == 4
    assert digest_of_parts([b"x"]) == hashlib.blake2b(b"\x01" + bytes(7) + b"x", digest_size=8).digest()


def test_seeds_differ_by_the_type_of_a_part():
    assert derive_seed(1, "a") != derive_seed("1", "a") != derive_seed("1a")
    assert 0 <= derive_seed("anything") < 2**63
    assert derive_seed(7, "train", 3) == 9177286884359981729, "resumed runs need the same seeds"
