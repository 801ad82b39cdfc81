"""Recipes of strange form are refused, or read, at once."""

import time

import pytest

from treepo.utils.settings_file import read_toml


@pytest.mark.parametrize("size", [100_000, 900_000])
def test_a_long_value_is_read_at_once(size, tmp_path):
    """A text of 100,000 characters without a sign took the square of its length: 45 seconds, in silence."""
    path = tmp_path / "recipe.toml"
    path.write_text(f"[prompt]\nsystem = '{'x.' * (size // 2)}'\n")
    started = time.process_time()
    assert len(read_toml(path)["prompt"]["system"]) == size
    assert time.process_time() - started < 5


@pytest.mark.parametrize("key", ["a" + ".b" * 201 + " = 1", "[a" + ".b" * 201 + "]", "x = {a" + ".b" * 201 + " = 1}"])
def test_a_key_of_many_parts_is_refused(key, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(key)
    with pytest.raises(ValueError, match="a key with more than 200 parts"):
        read_toml(path)
