"""Records read from files, folders, patterns of file names, and datasets on the hub."""

import importlib
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from treepo.data.fields import Record
from treepo.data.files import BATCH_ROWS, Found, one_line, read_file, table_rows, validated
from treepo.data.locations import SUFFIXES, Records, Source, record_suffix
from treepo.data.tasksets import TasksetSource, read_tasks
from treepo.errors import RecordError

PlacedRecord = tuple[str, Record]
"""The place of a record, for messages and ids, and the record."""

HUB_TIMEOUT_S = 10
MIN_DATASETS_VERSION = 4
"""Before, `datasets` ran loading scripts that came with a dataset."""

_INSTALL = "pip install 'treepo[datasets]'"
_COPY_HINT = (
    "; a copy can be named instead: a file, or a folder that save_to_disk of datasets wrote, as FORMAT=PATH, and "
    "earlier downloads are read with HF_HUB_OFFLINE=1"
)
_SPLIT_NAME = re.compile(r"(?<![a-z])(train|test|validation|valid|val|dev|eval)(?![a-z])", re.IGNORECASE)


def raise_error(error: RecordError) -> None:
    """What `read_records` does about a record that cannot be used, if nothing else is asked for."""
    raise error


def read_records(
    source: Source, label: str, on_bad: Callable[[RecordError], None] = raise_error
) -> Iterator[PlacedRecord]:
    """Yield a source's records in their order, each with its place: label:LINE, or label: row ROW, counted from 1.

    on_bad: called with the error of a record that is damaged while the rest can be read; if it returns, the record is
    passed over. Nothing that comes with a source is run as code, but for a taskset, which is a package. Raises
    RecordError, in one line, for what cannot be read.
    """
    for place, found in _read(source, label):
        if isinstance(found, RecordError):
            on_bad(found.at(place))
        else:
            yield place, found


def _read(source: Source, label: str) -> Iterator[Found]:
    if isinstance(source, Records):
        return ((f"{label}: row {number}", row) for number, row in enumerate(source.rows, start=1))
    if isinstance(source, TasksetSource):
        return read_tasks(source, label)
    path = Path(source.where)
    if source.is_pattern:
        return _read_pattern(source, label)
    if not source.is_local:
        return _read_hub(source, label)
    if path.is_dir():
        return _read_folder(path, source.split, label)
    return read_file(path, label)


def _read_pattern(source: Source, label: str) -> Iterator[Found]:
    """The files that a pattern such as data/*.jsonl matches, in the order of their names."""
    for file in source.matches:
        yield from read_file(file, f"{label}/{file.relative_to(source.folder).as_posix()}")


def _read_hub(source: Source, label: str) -> Iterator[Found]:
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
        raise RecordError(f"cannot read {str(source)!r} from the hub: {one_line(error)}{_COPY_HINT}") from error
    yield from _dataset_rows(data, source.split, name=str(source), label=label)


def _read_saved(path: Path, split: str, label: str) -> Iterator[Found]:
    """Read a folder that `save_to_disk` of `datasets` wrote."""
    datasets = _import_datasets()
    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:
        raise RecordError(f"cannot read {str(path)!r}: {one_line(error)}") from error
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
        raise RecordError(f"cannot read {str(source)!r} from the hub: {one_line(error)}") from error
    # A name that cannot be resolved, a refused connection, a time-out: the HTTP library's own errors.
    except Exception as error:
        raise RecordError(f"cannot reach the hub for {str(source)!r}: {one_line(error)}{_COPY_HINT}") from error


def _dataset_rows(data: Any, split: str, name: str, label: str) -> Iterator[Found]:
    """The rows of the split that is named, or of the only one there is."""
    # One split has columns, several are a mapping of splits.
    if isinstance(data, dict):
        _check_split(split, data, name)
        data = data[split or next(iter(data))]
    # As Arrow has them: images and sounds beside the texts are not decoded.
    return table_rows(validated(data.with_format("arrow").iter(batch_size=BATCH_ROWS)), name, label)


def _read_folder(path: Path, split: str, label: str) -> Iterator[Found]:
    """A folder that `datasets` saved, or the files of a split: those named after it or in a folder of its name."""
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        yield from _read_saved(path, split, label)
        return
    found = (p for p in path.rglob("*") if record_suffix(p.name) and p.is_file())
    files = sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts))
    if not files:
        raise RecordError(f"cannot read {str(path)!r}: the folder holds no file that ends in {', '.join(SUFFIXES)}")
    splits = {file: _split_of(file.relative_to(path)) for file in files}
    _check_split(split, set(splits.values()), str(path))
    for file in files:
        if splits[file] == split or not split:
            yield from read_file(file, f"{label}/{file.relative_to(path).as_posix()}")


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
