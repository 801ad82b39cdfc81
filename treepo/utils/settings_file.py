"""Settings read from TOML, which may have been written by anybody."""

import re
import tomllib
from pathlib import Path
from typing import Any

from treepo.utils.files import read_plain

SETTINGS_BYTES = 1 << 20
"""Longest file of settings; TOML takes seconds for a megabyte."""

MAX_DOTS = 200
"""In one key; the parser takes the square of their number."""

_ENDS = re.compile(r"([=\n{,\[\]])")
"""Characters around a key."""


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file. Raises OSError if it cannot be read, ValueError with one line if it is no TOML."""
    text = read_plain(path, SETTINGS_BYTES).decode("utf-8").replace("\r\n", "\n")
    # Alternately what may be a key, and the character that ends it. Not a pattern of a key: looked for at every
    # character of a long value, it takes the square of its length.
    parts = _ENDS.split(text)
    if any(end in "=]" and key.count(".") > MAX_DOTS for key, end in zip(parts[::2], parts[1::2], strict=False)):
        raise ValueError(f"a key with more than {MAX_DOTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
