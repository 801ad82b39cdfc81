"""Records read from single files: JSON, CSV, Parquet and Arrow."""

import csv
import errno
import gzip
import os
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from treepo.data.fields import Record
from treepo.data.json_text import iterate_list, parse_json
from treepo.data.locations import SUFFIXES, record_suffix
from treepo.errors import RecordError
from treepo.utils.files import check_plain, open_plain

Found = tuple[str, Record | RecordError]
"""The place of a record, for messages and ids, and the record, or what is wrong with it alone."""

BATCH_ROWS = 1024
MAX_MESSAGE_LEN = 300
MAX_RATIO = 200
FREE_BYTES = 16 << 20
"""A packed file may unpack to so many times its size and so many bytes besides; texts reach 10 times, repeats 100."""

UNPACKED_BYTES = 1 << 17
"""Bytes that are unpacked at a time."""

ARROW_MAGIC = b"ARROW1"
"""Begins a file in Arrow's file format; its stream format has no mark."""


def read_file(path: Path, label: str) -> Iterator[Found]:
    """Yield the records of a file, of the kind that its name ends in.

    Raises RecordError for a file that cannot be read, from where it cannot.
    """
    suffix = record_suffix(path.name)
    readers: dict[str, Callable[[Path, str], Iterator[Found]]] = {
        ".jsonl": _read_json_lines,
        ".json": _read_json,
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".parquet": _read_parquet,
        ".arrow": _read_arrow,
    }
    if not suffix:
        raise RecordError(f"cannot read {str(path)!r}: its name must end in one of {', '.join(SUFFIXES)}")
    with _reading(str(path)):
        check_plain(path.stat(), str(path))
    return readers[suffix.removesuffix(".gz")](path, label)


def table_rows(batches: Iterable[pa.RecordBatch | pa.Table], name: str, label: str) -> Iterator[Found]:
    """The rows of Arrow's batches with their places."""
    return _numbered((record for batch in batches for record in batch.to_pylist()), name, label)


def validated(batches: Iterable[pa.RecordBatch | pa.Table]) -> Iterator[pa.RecordBatch | pa.Table]:
    """Arrow's own batches, whose offsets may point anywhere, checked before they are read; raises ArrowInvalid."""
    for batch in batches:
        batch.validate(full=True)
        yield batch


def one_line(error: BaseException) -> str:
    """The message of a library's error, shortened; its class where it says nothing."""
    return " ".join(str(error).split())[:MAX_MESSAGE_LEN] or type(error).__name__


def _numbered(records: Iterable[Record | RecordError], name: str, label: str) -> Iterator[Found]:
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
    # ValueError: text that is not UTF-8, and times that Python has no type for. EOFError, zlib.error: damaged gzip.
    except (OSError, OverflowError, ValueError, EOFError, zlib.error, pa.ArrowException, csv.Error) as error:
        raise RecordError(f"cannot read {name!r}: {one_line(error)}") from error


class _Unpacked(gzip.GzipFile):
    """Raises OSError where a packed file stands for far more than it can hold of records."""

    def __init__(self, packed: IO[bytes]) -> None:
        super().__init__(fileobj=packed)
        self.packed = packed
        self.most = FREE_BYTES + MAX_RATIO * os.fstat(packed.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(UNPACKED_BYTES), b""))
        content = super().read(size)
        if self.tell() > self.most:
            raise OSError(errno.EFBIG, f"unpacks to more than {MAX_RATIO} times its size")
        return content

    def close(self) -> None:
        super().close()
        self.packed.close()


def _open(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked if its name ends in .gz."""
    file = open_plain(path)
    if not path.name.lower().endswith(".gz"):
        return file
    # Its buffer finds the ends of lines several times faster than gzip's own.
    return BufferedReader(_Unpacked(file), UNPACKED_BYTES)  # pyright: ignore[reportReturnType, reportArgumentType]


def _read_json_lines(path: Path, label: str) -> Iterator[Found]:
    is_empty = True
    with _reading(str(path)), _open(path) as file:
        # Not lines of text: those also end at characters that may be inside a JSON string.
        for number, line in enumerate(file, start=1):
            if line.strip(b" \t\r\n\xef\xbb\xbf" if number == 1 else None):
                is_empty = False
                yield f"{label}:{number}", _parse_line(line, is_first=number == 1)
    if is_empty:
        raise RecordError(f"{str(path)!r} is empty")


def _parse_line(line: bytes, is_first: bool) -> Record | RecordError:
    try:
        return _as_object(parse_json(line.decode("utf-8-sig" if is_first else "utf-8")))
    except UnicodeDecodeError as error:
        return RecordError(f"not UTF-8: {error}")
    except RecordError as error:
        return error


def _read_json(path: Path, label: str) -> Iterator[Found]:
    """A list of objects, or JSON lines, which some name .json too."""
    with _reading(str(path)), _open(path) as file:
        text = file.read().decode("utf-8-sig")
    if not text.lstrip().startswith("["):
        yield from _read_json_lines(path, label)
        return
    try:
        for place, value in _numbered(iterate_list(text), str(path), label):
            yield place, _as_object(value)
    except RecordError as error:
        raise error if "is empty" in error.message else error.at(label) from error


def _as_object(value: Any) -> Record | RecordError:
    return value if isinstance(value, dict | RecordError) else RecordError("not a JSON object")


def _read_parquet(path: Path, label: str) -> Iterator[Found]:
    with _reading(str(path)), pq.ParquetFile(path) as file:
        _check_names(list(file.schema_arrow), str(path))
        yield from table_rows(file.iter_batches(BATCH_ROWS), str(path), label)


def _read_arrow(path: Path, label: str) -> Iterator[Found]:
    """A file in Arrow's file format or its stream format, which `datasets` writes."""
    with _reading(str(path)), pa.OSFile(str(path)) as file:
        has_magic = file.read(len(ARROW_MAGIC)) == ARROW_MAGIC
        file.seek(0)
        reader = pa.ipc.open_file(file) if has_magic else pa.ipc.open_stream(file)
        _check_names(list(reader.schema), str(path))
        batches = map(reader.get_batch, range(reader.num_record_batches)) if has_magic else reader
        yield from table_rows(validated(batches), str(path), label)


def _first_repeated(names: Sequence[str]) -> list[str]:
    """The first of the names that are there more than once; none if they differ."""
    counts = Counter(names)
    return [name for name in names if counts[name] > 1][:1]


def _check_names(fields: Sequence[pa.Field], name: str) -> None:
    """Raise RecordError if a column, or a field of a struct, is named twice: Python would keep one of them."""
    names = [field.name for field in fields]
    if repeated := _first_repeated(names):
        raise RecordError(f"cannot read {name!r}: column {repeated[0]!r} is named twice")
    for field in fields:
        _check_names([field.type.field(i) for i in range(field.type.num_fields)], name)


def _read_csv(path: Path, label: str) -> Iterator[Found]:
    """Rows after a line of field names; a cell may hold line breaks, so a record is known by its row."""
    delimiter = "\t" if record_suffix(path.name).startswith(".tsv") else ","
    with _reading(str(path)), _open(path) as raw, TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
        rows = _filled_rows(csv.reader(file, delimiter=delimiter, strict=True))
        header = next(rows, [])
        if repeated := _first_repeated(header):
            raise RecordError(f"cannot read {str(path)!r}: column {repeated[0]!r} is named twice")
        yield from _numbered((_csv_record(header, row) for row in rows), str(path), label)


def _csv_record(header: list[str], row: list[str]) -> Record | RecordError:
    if len(row) != len(header):
        return RecordError("not as many cells as there are field names")
    return dict(zip(header, row, strict=True))


_FIELD_LIMIT = threading.Lock()
"""Held while the csv module's limit, which all threads share, is lifted."""


def _filled_rows(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """The rows that are not blank, with cells of any length."""
    while True:
        with _FIELD_LIMIT:
            limit = csv.field_size_limit(sys.maxsize)
            try:
                row = next(reader, None)
            finally:
                csv.field_size_limit(limit)
        if row is None:
            return
        if len(row) > 1 or any(cell.strip() for cell in row):
            yield row
