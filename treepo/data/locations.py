"""Where records lie: a file, a folder, the files that a pattern matches, or a dataset on the hub."""

import glob
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, Self

from treepo.data.fields import Record
from treepo.errors import SettingError
from treepo.utils import GIVEN

_TEXT_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
SUFFIXES = (*_TEXT_SUFFIXES, *(f"{suffix}.gz" for suffix in _TEXT_SUFFIXES), ".parquet", ".arrow")
"""Suffixes of files that hold records, in small or capital letters."""


def record_suffix(name: str) -> str:
    """The one of SUFFIXES that a file's name ends in, in small letters; empty if none."""
    return max((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), key=len, default="")


def path_exists(path: str) -> bool:
    """Whether a text is the path of an existing file or folder."""
    try:
        return bool(path) and Path(path).exists()
    # A text too long for a path, or with a null character.
    except (OSError, ValueError):
        return False


_PATTERN_SIGN = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Source:
    """A file, a folder, the files that a pattern matches, or a dataset on the hub.

    where: path of the file or folder, a pattern such as data/*.jsonl (** matches any folders), or org/name on the hub,
    optionally followed by a folder of that repository.
    format: the preset whose format its records have; empty for the format of the run's settings. split: of a folder or
    a dataset on the hub. config: configuration of a dataset on the hub.
    """

    where: str
    format: str = ""
    split: str = ""
    config: str = ""

    @property
    def is_local(self) -> bool:
        """Whether it is an existing file or folder, or a pattern of files."""
        return path_exists(self.where) or self.is_pattern

    @property
    def is_pattern(self) -> bool:
        """Whether it stands for the files that it matches; the path of an existing file or folder never does."""
        return bool(_PATTERN_SIGN.search(self.where)) and not path_exists(self.where)

    @property
    def folder(self) -> Path:
        """The folder in which the files of a pattern lie, or folders with them."""
        parts = Path(self.where).parts
        return Path(*takewhile(lambda part: not _PATTERN_SIGN.search(part), parts[:-1]))

    @property
    def matches(self) -> list[Path]:
        """The files of records that a pattern matches, sorted."""
        if not self.is_pattern:
            return []
        try:
            found = {Path(path) for path in glob.glob(self.where, recursive=True)}
        # A text with a null character.
        except ValueError:
            return []
        return sorted(path for path in found if record_suffix(path.name) and path.is_file())

    @property
    def is_found(self) -> bool:
        """Whether the file or folder exists, or files match the pattern."""
        return path_exists(self.where) or bool(self.matches)

    def __str__(self) -> str:
        config = f"#{self.config}" if self.config else ""
        split = f"@{self.split}" if self.split else ""
        return f"{self.where}{config}{split}"


class NamedSource(Source):
    """A source whose name is no path, however it looks."""

    @property
    def is_local(self) -> bool:
        return False

    @property
    def is_pattern(self) -> bool:
        return False


@dataclass(frozen=True)
class LibrarySource(NamedSource):
    """Problems that a library makes: LIBRARY:NAME[?OPTION=VALUE&...]. where: the source as given; format: NAME."""

    @classmethod
    def of(cls, text: str) -> Self:
        """The source that a text names, without the library."""
        return cls(text, text.partition(":")[2].partition("?")[0])

    @property
    def spec(self) -> str:
        """The name with its options."""
        return self.where.partition(":")[2]


@dataclass(frozen=True)
class Records(NamedSource):
    """Rows in memory. where: their name in problem ids and metrics."""

    rows: Sequence[Record] = field(default=(), compare=False)

    @classmethod
    def of(cls, name: str, rows: Iterable[Any], most: int) -> "Records":
        """The first `most` rows of anything that yields mappings; raises SettingError for something else.

        name: of the argument, such as train_dataset.
        """
        found = []
        if isinstance(rows, Mapping):
            raise SettingError(name, "must be rows: one split of a DatasetDict, a list of dicts", list(rows))
        try:
            for row in islice(iter(rows), most):
                if not isinstance(row, Mapping):
                    raise SettingError(name, f"row {len(found) + 1} must be a mapping of columns", row)
                # numpy's and torch's values, as Dataset.with_format gives them.
                found.append({key: v.tolist() if hasattr(v, "tolist") else v for key, v in row.items()})
        except TypeError as error:
            message = "must be a path, a dataset's name, a Dataset, or rows of columns"
            raise SettingError(name, message, type(rows).__name__) from error
        if not found:
            raise SettingError(name, "holds no rows")
        return cls(name, rows=found)

    @property
    def setting(self) -> str:
        """What stands for them in the settings of a run."""
        return f"{GIVEN}{self.where}"
