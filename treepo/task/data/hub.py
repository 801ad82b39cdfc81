"""Records of problems from the Hugging Face hub and from folders that `datasets` saved."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from treepo.task.data.formats import Record
from treepo.task.data.source import Source

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
