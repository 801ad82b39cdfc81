"""What the names of files that hold records end in."""

_TEXT_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
SUFFIXES = (*_TEXT_SUFFIXES, *(f"{suffix}.gz" for suffix in _TEXT_SUFFIXES), ".parquet", ".arrow")
"""Suffixes of files that hold records, in small or capital letters."""


def record_suffix(name: str) -> str:
    """The one of SUFFIXES that a file's name ends in, in small letters; empty if none."""
    return max((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), key=len, default="")
