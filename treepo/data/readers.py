"""Records read from files and from the hub."""

import csv
import importlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from treepo.data.formats import Record
from treepo.data.sources import SUFFIXES, Source

PROBE_TIMEOUT_S = 10
BATCH_ROWS = 1024
LONGEST_MESSAGE = 300
OLDEST_DATASETS = 4
"""Before, `datasets` ran loading scripts that came with a set."""


def read_hub(source: Source, label: str) -> Iterator[tuple[str, Record]]:
    """Yield the records of a set on the hub, downloaded once and then kept where `datasets` keeps what it downloads.

    Nothing is run as code: sets that are a loading script are refused. Raises ValueError if `datasets` is not
    installed, if the hub cannot be reached, if it has no such set, or if a split or configuration must be named.
    """
    datasets = _import_datasets()
    org, name, *folders = source.where.split("/")
    repository = f"{org}/{name}"
    if not datasets.config.HF_HUB_OFFLINE:
        _check_reachable(repository, source)
    try:
        data = datasets.load_dataset(
            repository, source.config or None, data_dir="/".join(folders) or None, split=source.split or None
        )
    # Whatever is wrong with what was downloaded, in the words of the library that knows.
    except Exception as error:
        raise ValueError(f"cannot read {str(source)!r} from the hub: {_one_line(error)}{_copy_hint()}") from error
    yield from _rows(_only_split(data, source.split, str(source)), label)


def read_saved(path: Path, split: str, label: str) -> Iterator[tuple[str, Record]]:
    """Yield the records of a folder that `save_to_disk` of `datasets` wrote.

    Raises ValueError if `datasets` is not installed, if the folder cannot be read, or if a split must be named.
    """
    datasets = _import_datasets()
    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:
        raise ValueError(f"cannot read {str(path)!r}: {_one_line(error)}") from error
    yield from _rows(_only_split(data, split, str(path)), label)


def _import_datasets() -> Any:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise ValueError(
            "sets on the hub and saved folders need the package datasets: pip install 'treepo[datasets]'"
        ) from error
    if int(datasets.__version__.split(".")[0]) < OLDEST_DATASETS:
        raise ValueError(
            f"datasets {datasets.__version__} may run code of a set; {OLDEST_DATASETS} is needed: "
            f"pip install 'treepo[datasets]'"
        )
    return datasets


def _check_reachable(repository: str, source: Source) -> None:
    """Ask the hub once. `datasets` itself would ask for half a minute before it says that there is no connection."""
    hub = importlib.import_module("huggingface_hub")
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        hub.HfApi().dataset_info(repository, timeout=PROBE_TIMEOUT_S)
    except errors.HfHubHTTPError as error:
        raise ValueError(f"cannot read {str(source)!r} from the hub: {_one_line(error)}") from error
    # A name that cannot be resolved, a refused connection, a time-out: the HTTP library's own errors.
    except Exception as error:
        raise ValueError(f"cannot reach the hub for {str(source)!r}: {_one_line(error)}{_copy_hint()}") from error


def _copy_hint() -> str:
    return (
        "; a copy can be named instead: a file, or a folder that save_to_disk of datasets wrote, as FORMAT=PATH, and "
        "what was downloaded before is read with HF_HUB_OFFLINE=1"
    )


def _only_split(data: Any, split: str, name: str) -> Any:
    """The split that is named, or the only one there is."""
    # One split has columns, several are a mapping of splits.
    if not isinstance(data, dict):
        return data
    names = sorted(data)
    if split and split not in names:
        raise ValueError(f"no split {split!r} in {name!r}; there are {names}")
    if not split and len(names) != 1:
        raise ValueError(f"{name!r} holds several splits: name one of {names} after @")
    return data[split or names[0]]


def _rows(data: Any, label: str) -> Iterator[tuple[str, Record]]:
    if not len(data):
        raise ValueError(f"{label} is empty")
    number = 0
    # As Arrow has them: images and sounds beside the texts are not decoded.
    try:
        for batch in data.with_format("arrow").iter(batch_size=BATCH_ROWS):
            for record in batch.to_pylist():
                number += 1
                yield f"{label}: row {number}", record
    # Text that is no UTF-8, and times that Python has no type for.
    except (OverflowError, ValueError) as error:
        raise ValueError(f"cannot read {label!r}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    """All of a message, up to a length: the hub's begin with the number of an error alone."""
    return " ".join(str(error).split())[:LONGEST_MESSAGE] or type(error).__name__


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
