"""Records of problems from files and folders, one by one."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from treepo.task.data.formats import Record
from treepo.task.data.hub import read_hub, read_saved
from treepo.task.data.source import SUFFIXES, Source

Placed = tuple[str, Record]
"""Where a record stands, for messages, and the record."""

_SPLIT_NAME = re.compile(r"(?<![a-z])(train|test|validation|valid|val|dev|eval)(?![a-z])", re.IGNORECASE)
_BATCH_ROWS = 1024


def read_records(source: Source, label: str) -> Iterator[Placed]:
    """Yield a source's records in their order, each with its place: label:LINE, or label: row ROW, counted from 1.

    Nothing that a source brings is run as code. Raises ValueError, in one line, for what cannot be read, naming the
    place.
    """
    path = Path(source.where)
    if not source.is_local:
        return read_hub(source, label)
    if path.is_dir():
        return _read_folder(path, source.split, label)
    return _read_file(path, label)


def _read_file(path: Path, label: str) -> Iterator[Placed]:
    readers: dict[str, Callable[[Path, str], Iterator[Placed]]] = {
        ".jsonl": _read_json_lines,
        ".json": _read_json,
        ".parquet": _read_parquet,
        ".csv": _read_csv,
    }
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise ValueError(f"cannot read {str(path)!r}: its name must end in one of {', '.join(readers)}")
    return readers[suffix](path, label)


def _read_folder(path: Path, split: str, label: str) -> Iterator[Placed]:
    """What `datasets` saved, else the files of the split: those named after it or in a folder of its name."""
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        yield from read_saved(path, split, label)
        return
    files = sorted(
        p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file() and not _is_hidden(p, path)
    )
    if not files:
        raise ValueError(f"cannot read {str(path)!r}: the folder holds no file that ends in {', '.join(SUFFIXES)}")
    splits = {file: _split_of(file.relative_to(path)) for file in files}
    names = sorted(set(splits.values()))
    if split and split not in names:
        raise ValueError(f"no split {split!r} in {str(path)!r}; there are {[name for name in names if name]}")
    if not split and len(names) > 1:
        raise ValueError(f"{str(path)!r} holds several splits: name one of {[name for name in names if name]} after @")
    for file in files:
        if splits[file] == split or not split:
            yield from _read_file(file, f"{label}/{file.relative_to(path).as_posix()}")


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _split_of(path: Path) -> str:
    """The split that stands in a file's name as a word, else in the nearest folder's; "" if in none."""
    for part in reversed(path.parts):
        if found := _SPLIT_NAME.search(part):
            return found.group(1).lower()
    return ""


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {str(path)!r}: {error}") from error
    if not text.strip():
        raise ValueError(f"{str(path)!r} is empty")
    return text


def _read_json_lines(path: Path, label: str) -> Iterator[Placed]:
    # Not splitlines: it also splits at characters that may stand inside a JSON string.
    for number, line in enumerate(_read_text(path).removesuffix("\n").split("\n"), start=1):
        place = f"{label}:{number}"
        if not line.strip():
            raise ValueError(f"{place}: empty line")
        yield place, _as_object(_parsed(line, place), place)


def _read_json(path: Path, label: str) -> Iterator[Placed]:
    """A list of objects, or JSON lines, which many call .json too."""
    text = _read_text(path)
    if not text.lstrip().startswith("["):
        yield from _read_json_lines(path, label)
        return
    values = _parsed(text, label)
    if not values:
        raise ValueError(f"{str(path)!r} is empty")
    for number, value in enumerate(values, start=1):
        place = f"{label}: row {number}"
        yield place, _as_object(value, place)


def _parsed(text: str, place: str) -> Any:
    try:
        # Numbers stay as they are written: 1.50 is not 1.5.
        return json.loads(text, parse_float=str, parse_int=str, parse_constant=_not_a_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not JSON: {error}") from error


def _not_a_number(name: str) -> str:
    raise ValueError(f"{name} is not a number of JSON")


def _as_object(value: Any, place: str) -> Record:
    if not isinstance(value, dict):
        raise ValueError(f"{place}: not a JSON object")
    return value


def _read_parquet(path: Path, label: str) -> Iterator[Placed]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{label}: row {number}", record
    # ValueError: text that is no UTF-8, and times that Python has no type for.
    except (OSError, OverflowError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"cannot read {str(path)!r}: {_first_line(error)}") from error
    if not number:
        raise ValueError(f"{str(path)!r} is empty")


def _read_csv(path: Path, label: str) -> Iterator[Placed]:
    """Rows after a line of field names; a cell may hold line breaks, so a record is known by its row."""
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file, strict=True), start=1):
                place = f"{label}: row {number}"
                if None in row or None in row.values():
                    raise ValueError(f"{place}: not as many cells as there are field names")
                yield place, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read {str(path)!r}: {_first_line(error)}") from error
    if not number:
        raise ValueError(f"{str(path)!r} is empty")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
