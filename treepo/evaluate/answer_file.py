"""One Parquet file of answers, and what they cost."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from treepo.evaluate.records import SCHEMA, Cost
from treepo.files import replacing as replacing_file

UNFINISHED = "unfinished-"
"""Names of files that are being written begin with this, until they are renamed."""


class StoreError(ValueError):
    """Answers cannot be kept or read; the message says in one line which file and why."""


@dataclass(frozen=True)
class PartCost:
    """What the answers of one model and setting that were kept at the same time cost together."""

    model: str
    setting: str
    cost: Cost


COSTS = TypeAdapter(dict[str, PartCost])
"""By the names of the parts that a file consists of.

They stand in the metadata of the answers' own file, so that neither can be kept without the other.
"""

COSTS_KEY = b"treepo.costs"

WRITING = {"compression": "zstd", "write_page_checksum": True}
"""With checksums a damaged page is an error, not another answer."""


def write_answers(path: Path, tables: Iterable[pa.Table], costs: Mapping[str, PartCost]) -> None:
    """Write tables of SCHEMA one after the other: on disk when this returns, and not there at all until then."""
    schema = SCHEMA.with_metadata({COSTS_KEY: COSTS.dump_json(dict(costs))})
    with replacing(path) as unfinished, pq.ParquetWriter(unfinished, schema, **WRITING) as writer:
        for table in tables:
            writer.write_table(table)


def read_answers(path: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of a file. Raises StoreError naming it if it is damaged or holds something else."""
    with _opened(path) as file:
        return file.read(list(columns)).replace_schema_metadata()


def read_costs(path: Path) -> dict[str, PartCost]:
    """The parts that a file consists of and what they cost. Raises StoreError like `read_answers`."""
    with _opened(path) as file:
        return COSTS.validate_json((file.schema_arrow.metadata or {}).get(COSTS_KEY, b"no costs"))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` once all is written and on disk; raises StoreError if not."""
    try:
        with replacing_file(path, path.with_name(UNFINISHED + path.name)) as unfinished:
            yield unfinished
    except OSError as error:
        raise StoreError(f"out: cannot write {str(path)!r}: {error.strerror or error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not file.schema_arrow.equals(SCHEMA):
                raise ValueError("other columns")
            yield file
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"out: {str(path)!r} cannot be read as answers: {reason}") from error
