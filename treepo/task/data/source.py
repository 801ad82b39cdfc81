"""Where problems come from, written as one string: [FORMAT=]WHERE[@SPLIT]."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from treepo.task.data.known import KNOWN

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
"""Kinds of files that hold records, in small or capital letters."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(/[\w.-]+)*")
_FORMAT_NAME = re.compile(r"[A-Za-z]\w*")


@dataclass(frozen=True)
class Source:
    """A file, a folder or a set on the hub."""

    where: str
    """Path of the file or folder, or the hub's org/name, perhaps with a folder of that repository after it."""

    format: str = ""
    """Name of the published set whose format its records have; "" for the run's own format."""

    split: str = ""
    """Which part of a folder or of a set on the hub."""

    config: str = ""
    """Which configuration of a set on the hub."""

    @property
    def is_local(self) -> bool:
        """Whether it is a file or folder that is there."""
        return _exists(self.where)

    def __str__(self) -> str:
        config = f"#{self.config}" if self.config else ""
        split = f"@{self.split}" if self.split else ""
        return f"{self.where}{config}{split}"


def parse_source(text: str, setting: str = "data.train") -> Source:
    """Take a source's string apart; the name of a known set alone means where it is published.

    A path that exists is taken as it stands, whatever signs it holds. setting: the one that named the source, for
    messages. Raises ValueError naming a format that is not known, a file or folder that is not there, or a split of
    a file.
    """
    if _exists(text):
        return Source(text)
    head, sign, rest = text.partition("=")
    if not sign or not _FORMAT_NAME.fullmatch(head):
        head, rest = "", text
    elif head not in KNOWN:
        raise ValueError(f"{setting}: no format {head!r}; there are {sorted(KNOWN)}")
    source = _located(rest, head)
    if not head and source.where in KNOWN:
        known = KNOWN[source.where]
        return Source(known.hub, source.where, source.split or known.split, source.config or known.config)
    _check(source, text, setting)
    return source


def _located(text: str, form: str) -> Source:
    if _exists(text):
        return Source(text, form)
    before, sign, split = text.rpartition("@")
    where, split = (before, split) if sign else (text, "")
    if _exists(where):
        return Source(where, form, split)
    where, _, config = where.partition("#")
    return Source(where, form, split, config)


def _check(source: Source, text: str, setting: str) -> None:
    where = source.where
    if not where:
        raise ValueError(f"{setting}: {text!r} names no file, folder or set")
    if source.is_local:
        if source.split and not Path(where).is_dir():
            raise ValueError(f"{setting}: {where!r} is a file, which has no splits, got {source.split!r}")
    elif where.lower().endswith(SUFFIXES) or not _HUB_NAME.fullmatch(where):
        if source.format:
            raise ValueError(f"{setting}: cannot read {where!r}: no such file or folder, and no org/name of the hub")
        known = "" if os.sep in where else f", and no such set; there are {sorted(KNOWN)}"
        raise ValueError(f"{setting}: cannot read {where!r}: no such file or folder{known}")


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).exists()
    # A text too long for a path, or with a null character.
    except (OSError, ValueError):
        return False


def labels(sources: Sequence[Source]) -> list[str]:
    """One name for each source, which tells it from the others: a path's last parts, as many as that takes.

    They depend on the sources alone, so the ids of problems, which begin with them, are the same in every run.
    """
    parts = [_parts(source) for source in sources]
    names = []
    for own in parts:
        others = [other for other in parts if other != own]
        count = next(n for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others))
        names.append("/".join(own[-count:]))
    return names


def set_names(sources: Sequence[Source]) -> list[str]:
    """One name for each source as figures by set bear it: its format's, else its file's; labels where those agree."""
    names = [source.format or Path(source.where).stem for source in sources]
    return [label if names.count(name) > 1 else name for name, label in zip(names, labels(sources), strict=True)]


def _parts(source: Source) -> tuple[str, ...]:
    """What the label is made of, ending in the split; a hub's name is one part, since its name alone says little."""
    if not source.is_local:
        return ("", str(source))
    *folders, name = Path(os.path.abspath(source.where)).parts
    return (*folders, f"{name}@{source.split}" if source.split else name)
