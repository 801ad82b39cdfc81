"""Records read from files, folders, and datasets on the hub."""

import csv
import importlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from treepo.data.formats import Record
from treepo.data.sources import SUFFIXES, Source
from treepo.errors import RecordError
from treepo.utils.files import check_plain

PlacedRecord = tuple[str, Record]
"""The place of a record, for messages and ids, and the record."""

BATCH_ROWS = 1024
HUB_TIMEOUT_S = 10
MAX_MESSAGE_LEN = 300
MIN_DATASETS_VERSION = 4
"""Before, `datasets` ran loading scripts that came with a dataset."""

_INSTALL = "pip install 'treepo[datasets]'"
_COPY_HINT = (
    "; a copy can be named instead: a file, or a folder that save_to_disk of datasets wrote, as FORMAT=PATH, and "
    "earlier downloads are read with HF_HUB_OFFLINE=1"
)
_SPLIT_NAME = re.compile(r"(?<![a-z])(train|test|validation|valid|val|dev|eval)(?![a-z])", re.IGNORECASE)


def read_records(source: Source, label: str) -> Iterator[PlacedRecord]:
    """Yield a source's records in their order, each with its place: label:LINE, or label: row ROW, counted from 1.

    Nothing that comes with a source is run as code. Raises RecordError, in one line, for what cannot be read.
    """
    path = Path(source.where)
    if not source.is_local:
        return _read_hub(source, label)
    if path.is_dir():
        return _read_folder(path, source.split, label)
    return _read_file(path, label)


def _read_hub(source: Source, label: str) -> Iterator[PlacedRecord]:
    """Read a dataset on the hub, which `datasets` downloads once and keeps; loading scripts are refused."""
    datasets = _import_datasets()
    org, name, *folders = source.where.split("/")
    repository = f"{org}/{name}"
    if not datasets.config.HF_HUB_OFFLINE:
        _check_reachable(repository, source)
    try:
        data = datasets.load_dataset(
            repository, source.config or None, data_dir="/".join(folders) or None, split=source.split or None
        )
    # Whatever is wrong with the download, in the words of the library.
    except Exception as error:
        raise RecordError(f"cannot read {str(source)!r} from the hub: {_one_line(error)}{_COPY_HINT}") from error
    yield from _dataset_rows(data, source.split, name=str(source), label=label)


def _read_saved(path: Path, split: str, label: str) -> Iterator[PlacedRecord]:
    """Read a folder that `save_to_disk` of `datasets` wrote."""
    datasets = _import_datasets()
    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:
        raise RecordError(f"cannot read {str(path)!r}: {_one_line(error)}") from error
    yield from _dataset_rows(data, split, name=str(path), label=label)


def _import_datasets() -> Any:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise RecordError(f"datasets on the hub and saved folders need the package datasets: {_INSTALL}") from error
    version = datasets.__version__
    if int(version.split(".")[0]) < MIN_DATASETS_VERSION:
        message = f"datasets {version} may run code of a dataset; {MIN_DATASETS_VERSION} is needed: {_INSTALL}"
        raise RecordError(message)
    return datasets


def _check_reachable(repository: str, source: Source) -> None:
    """Ask the hub once. Without a connection, `datasets` itself would retry for half a minute."""
    hub = importlib.import_module("huggingface_hub")
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        hub.HfApi().dataset_info(repository, timeout=HUB_TIMEOUT_S)
    except errors.HfHubHTTPError as error:
        raise RecordError(f"cannot read {str(source)!r} from the hub: {_one_line(error)}") from error
    # A name that cannot be resolved, a refused connection, a time-out: the HTTP library's own errors.
    except Exception as error:
        raise RecordError(f"cannot reach the hub for {str(source)!r}: {_one_line(error)}{_COPY_HINT}") from error


def _dataset_rows(data: Any, split: str, name: str, label: str) -> Iterator[PlacedRecord]:
    """The rows of the split that is named, or of the only one there is."""
    # One split has columns, several are a mapping of splits.
    if isinstance(data, dict):
        _check_split(split, data, name)
        data = data[split or next(iter(data))]
    # As Arrow has them: images and sounds beside the texts are not decoded.
    return _rows(data.with_format("arrow").iter(batch_size=BATCH_ROWS), name, label)


def _rows(batches: Iterable[pa.RecordBatch | pa.Table], name: str, label: str) -> Iterator[PlacedRecord]:
    return _numbered((record for batch in batches for record in batch.to_pylist()), name, label)


def _numbered(records: Iterable[Record], name: str, label: str) -> Iterator[PlacedRecord]:
    """The records with their rows; raises RecordError if there are none, or if reading them fails."""
    number = 0
    with _reading(name):
        for number, record in enumerate(records, start=1):
            yield f"{label}: row {number}", record
    if not number:
        raise RecordError(f"{name!r} is empty")


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except RecordError:
        raise
    # ValueError: text that is not UTF-8, and times that Python has no type for.
    except (OSError, OverflowError, ValueError, pa.ArrowException, csv.Error) as error:
        raise RecordError(f"cannot read {name!r}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:MAX_MESSAGE_LEN] or type(error).__name__


def _read_file(path: Path, label: str) -> Iterator[PlacedRecord]:
    readers: dict[str, Callable[[Path, str], Iterator[PlacedRecord]]] = {
        ".jsonl": _read_json_lines,
        ".json": _read_json,
        ".parquet": _read_parquet,
        ".csv": _read_csv,
    }
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise RecordError(f"cannot read {str(path)!r}: its name must end in one of {', '.join(readers)}")
    with _reading(str(path)):
        check_plain(path.stat(), str(path))
    return readers[suffix](path, label)


def _read_folder(path: Path, split: str, label: str) -> Iterator[PlacedRecord]:
    """A folder that `datasets` saved, or the files of a split: those named after it or in a folder of its name."""
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        yield from _read_saved(path, split, label)
        return
    found = (p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    files = sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts))
    if not files:
        raise RecordError(f"cannot read {str(path)!r}: the folder holds no file that ends in {', '.join(SUFFIXES)}")
    splits = {file: _split_of(file.relative_to(path)) for file in files}
    _check_split(split, set(splits.values()), str(path))
    for file in files:
        if splits[file] == split or not split:
            yield from _read_file(file, f"{label}/{file.relative_to(path).as_posix()}")


def _check_split(split: str, names: Collection[str], source: str) -> None:
    shown = sorted(name for name in names if name)
    if split and split not in names:
        raise RecordError(f"no split {split!r} in {source!r}; there are {shown}")
    if not split and len(names) != 1:
        raise RecordError(f"{source!r} holds several splits: name one of {shown} after @")


def _split_of(path: Path) -> str:
    """The split that is a word of the file's name, else of the nearest folder's; empty if none is."""
    for part in reversed(path.parts):
        if found := _SPLIT_NAME.search(part):
            return found.group(1).lower()
    return ""


def _read_text(path: Path) -> str:
    with _reading(str(path)):
        text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        raise RecordError(f"{str(path)!r} is empty")
    return text


def _read_json_lines(path: Path, label: str) -> Iterator[PlacedRecord]:
    # Not splitlines: it also splits at characters that may be inside a JSON string.
    for number, line in enumerate(_read_text(path).removesuffix("\n").split("\n"), start=1):
        place = f"{label}:{number}"
        if not line.strip():
            raise RecordError("empty line", place)
        yield place, _as_object(_parse_json(line, place), place)


def _read_json(path: Path, label: str) -> Iterator[PlacedRecord]:
    """A list of objects, or JSON lines, which some name .json too."""
    text = _read_text(path)
    if not text.lstrip().startswith("["):
        yield from _read_json_lines(path, label)
        return
    for place, value in _numbered(_parse_json(text, label), str(path), label):
        yield place, _as_object(value, place)


def _parse_json(text: str, place: str) -> Any:
    try:
        # Numbers stay as they are written: 1.50 is not 1.5.
        return json.loads(text, parse_float=str, parse_int=str, parse_constant=_not_a_number)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not JSON: {error}", place) from error


def _not_a_number(name: str) -> str:
    raise RecordError(f"{name} is not a JSON number")


def _as_object(value: Any, place: str) -> Record:
    if not isinstance(value, dict):
        raise RecordError("not a JSON object", place)
    return value


def _read_parquet(path: Path, label: str) -> Iterator[PlacedRecord]:
    with _reading(str(path)), pq.ParquetFile(path) as file:
        yield from _rows(file.iter_batches(BATCH_ROWS), str(path), label)


def _read_csv(path: Path, label: str) -> Iterator[PlacedRecord]:
    """Rows after a line of field names; a cell may hold line breaks, so a record is known by its row."""
    with _reading(str(path)), path.open(encoding="utf-8-sig", newline="") as file:
        for place, row in _numbered(csv.DictReader(file, strict=True), str(path), label):
            if None in row or None in row.values():
                raise RecordError("not as many cells as there are field names", place)
            yield place, row
