"""A folder of answers and their costs, in Parquet files that survive interruptions."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from treepo.errors import SettingError
from treepo.evaluate.records import ADDED as ADDED_COLUMNS
from treepo.evaluate.records import SCHEMA, AnswerRecord, Cost, ProblemKey, to_table
from treepo.utils.files import JSON_BYTES, open_plain, read_plain
from treepo.utils.io import LOCK, lock_dir, preparing, writing
from treepo.utils.io import replacing as replacing_file
from treepo.utils.numeric import digest

UNFINISHED = "unfinished-"
"""Names of files that are being written begin with this, until they are renamed."""


@dataclass(frozen=True)
class PartCost:
    """The cost of answers of one model and setting that were stored together."""

    model: str
    setting: str
    cost: Cost


COSTS = TypeAdapter(dict[str, PartCost])
"""By the names of the parts that a file consists of.

They stand in the metadata of the answers' own file, so that neither can be kept without the other.
"""

COSTS_KEY = b"treepo.costs"

WRITING = {"compression": "zstd", "write_page_checksum": True}
"""Checksums turn a damaged page into an error instead of another answer."""


def write_answers(path: Path, tables: Iterable[pa.Table], costs: Mapping[str, PartCost]) -> None:
    """Write tables of SCHEMA one after the other: on disk when this returns, and not there at all until then."""
    schema = SCHEMA.with_metadata({COSTS_KEY: COSTS.dump_json(dict(costs))})
    with replacing(path) as unfinished, pq.ParquetWriter(unfinished, schema, **WRITING) as writer:
        for table in tables:
            writer.write_table(table)


def read_answers(path: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of a file. Raises SettingError naming it if it is damaged or holds something else."""
    with _opened(path) as file:
        there = set(file.schema_arrow.names)
        found = file.read([name for name in columns if name in there]).replace_schema_metadata()
    for name in columns:
        if name not in there:
            found = found.append_column(SCHEMA.field(name), pa.nulls(len(found), SCHEMA.field(name).type))
    return found.select(list(columns))


def read_costs(path: Path) -> dict[str, PartCost]:
    """The parts that a file consists of and what they cost. Raises SettingError like `read_answers`."""
    with _opened(path) as file:
        return COSTS.validate_json((file.schema_arrow.metadata or {}).get(COSTS_KEY, b"no costs"))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which then takes the place of `path`; raises WriteError if that fails."""
    lost = "what was answered since the last part; all answers before are kept"
    with writing(path, lost), replacing_file(path, path.with_name(UNFINISHED + path.name)) as unfinished:
        yield unfinished


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with open_plain(path) as plain, pq.ParquetFile(plain, page_checksum_verification=True) as file:
            there = set(file.schema_arrow.names)
            if missing := sorted(set(SCHEMA.names) - set(ADDED_COLUMNS) - there):
                raise ValueError(f"no column {missing[0]!r}, as in files of another version")
            if not file.schema_arrow.equals(pa.schema([own for own in SCHEMA if own.name in there])):
                raise ValueError("other columns")
            yield file
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SettingError("out", f"{str(path)!r} cannot be read as answers: {reason}") from error


ANSWERS, SETTINGS = "answers.parquet", "settings.json"
FINGERPRINTS, RESULTS = "fingerprints.json", "results.json"
OURS = re.compile(rf"{LOCK}|({UNFINISHED})?(part-.*\.parquet|answers\.parquet|(settings|fingerprints|results)\.json)")
"""Names of the files of such a folder."""

KIND = "kind"
"""The setting that distinguishes our folders from others with files of the same names."""

ADDED = {"eval.repetition_penalty": "1.0"}
"""Settings that folders of earlier versions do not name, with the value that they had there, as JSON."""

SAMPLE = (*ProblemKey._fields, "sample")
"""The columns that identify an answer."""


@dataclass(frozen=True)
class AnswerStore:
    """The answers in one folder: parts as problems are finished, one `answers.parquet` in the end.

    One process may write at a time (`lock`). A SettingError names the file or folder that cannot be read or used, a
    WriteError the file that cannot be written, say because the disk is full.
    """

    folder: Path

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder and keep other processes from writing to it; raises SettingError if one does."""
        with preparing(self.folder, "out"):
            self.folder.mkdir(parents=True, exist_ok=True)
        with lock_dir(self.folder):
            yield

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Prepare the folder for answers, the first or more, under these settings.

        Unfinished files of an interrupted process are removed. settings: everything that answers depend on, as JSON.
        Raises SettingError saying what differs if there are answers under others.
        """
        with preparing(self.folder, "out"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._require_ours()
            _require_settings(self.folder / SETTINGS, settings, may_begin=not self._files())
            for path in self.folder.glob(f"{UNFINISHED}*"):
                path.unlink()
            self._remove_compacted()

    def _require_ours(self) -> None:
        """Raise SettingError if there are files that are not those of such a folder."""
        names = sorted(path.name for path in self.folder.iterdir())
        foreign = [name for name in names if not OURS.fullmatch(name)]
        if SETTINGS not in names:
            foreign += [name for name in (FINGERPRINTS, RESULTS) if name in names]
        if foreign:
            raise SettingError(
                "out", f"{str(self.folder)!r} holds other files, such as {foreign[0]!r}; give a new folder"
            )

    def append(self, records: Sequence[AnswerRecord], cost: Cost) -> None:
        """Store all answers to some problems, of one model and setting, with their cost: all or nothing.

        They are on disk when this returns. Raises ValueError if a field of a key is no text.
        """
        assert len({(r.model, r.setting) for r in records}) == 1, "one model, one setting"
        name = self._next_part(records)
        part_cost = PartCost(records[0].model, records[0].setting, cost)
        write_answers(self.folder / name, [to_table(records)], {name: part_cost})

    def done(self) -> set[ProblemKey]:
        """The problems whose answers are stored."""
        columns = self.read(ProblemKey._fields).to_pydict()
        return set(map(ProblemKey, *(columns[name] for name in ProblemKey._fields)))

    def read(self, columns: Sequence[str] = tuple(SCHEMA.names)) -> pa.Table:
        """All answers in the order in which they were stored; the columns of SCHEMA, or some of them.

        Raises SettingError if the same answer is in two files, as after copying files.
        """
        tables, holders = [SCHEMA.empty_table().select(list(columns))], {}
        for path in self._files():
            table = read_answers(path, [name for name in SCHEMA.names if name in {*columns, *SAMPLE}])
            for sample in zip(*(table[name].to_pylist() for name in SAMPLE), strict=True):
                holder = holders.setdefault(sample, path.name)
                if holder != path.name:
                    raise SettingError("out", f"{holder!r} and {path.name!r} both hold {sample}; remove one of them")
            tables.append(table.select(list(columns)))
        return pa.concat_tables(tables)

    def costs(self) -> dict[tuple[str, str], Cost]:
        """The cost of all answers by (model, setting), in the order in which they were begun.

        Work lost to an interruption is not included: there are no answers from it either.
        """
        costs: dict[tuple[str, str], list[Cost]] = {}
        for part in self._costs().values():
            costs.setdefault((part.model, part.setting), []).append(part.cost)
        return {key: _total(parts) for key, parts in costs.items()}

    def compact(self) -> None:
        """Merge all answers into `answers.parquet`; after an interruption `claim` completes it."""
        files = self._files()
        if any(path.name != ANSWERS for path in files):
            tables = (read_answers(path, SCHEMA.names) for path in files)
            write_answers(self.folder / ANSWERS, tables, self._costs())
        self._remove_compacted()

    def write_results(self, text: str) -> None:
        """Keep the metrics of all answers beside them."""
        with replacing(self.folder / RESULTS) as unfinished:
            unfinished.write_text(text, encoding="utf-8")

    def _files(self) -> list[Path]:
        """`answers.parquet` and the parts that are not in it, oldest first."""
        compacted = self._compacted()
        whole = [self.folder / ANSWERS] if compacted else []
        return whole + [path for path in self._parts() if path.name not in compacted]

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    def _compacted(self) -> dict[str, PartCost]:
        path = self.folder / ANSWERS
        return read_costs(path) if path.exists() else {}

    def _costs(self) -> dict[str, PartCost]:
        return {name: part for path in self._files() for name, part in read_costs(path).items()}

    def _next_part(self, records: Sequence[AnswerRecord]) -> str:
        """Counted, which keeps the order, and named after its answers: it takes no other answers' place."""
        samples = json.dumps([[*record.key, record.sample] for record in records])
        names = [*self._compacted(), *(path.name for path in self._parts())]
        number = 1 + max((int(name.split("-")[1]) for name in names), default=0)
        return f"part-{number:06d}-{digest(samples, size=6).hex()}.parquet"

    def _remove_compacted(self) -> None:
        compacted = self._compacted()
        with writing(self.folder, "nothing; all answers are kept"):
            for path in self._parts():
                if path.name in compacted:
                    path.unlink()


def _total(costs: Sequence[Cost]) -> Cost:
    return Cost(
        sum(cost.tokens_decoded for cost in costs),
        sum(cost.tokens_prefilled for cost in costs),
        math.fsum(cost.wall_s for cost in costs),
        math.fsum(cost.accelerator_s for cost in costs),
    )


def _require_settings(path: Path, settings: Mapping[str, Any], may_begin: bool) -> None:
    """Write the settings, or compare them with those written before."""
    new = json.loads(json.dumps(settings, allow_nan=False))
    before, now = None, _flat(new)
    if path.exists():
        try:
            before = _flat(json.loads(read_plain(path, JSON_BYTES)))
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            if not may_begin:
                raise SettingError("out", f"{str(path)!r} cannot be read as settings: {error}") from error
            before = {KIND: "unreadable"}
    if may_begin:
        if before is not None and before.get(KIND) != now.get(KIND):
            raise SettingError("out", f"{str(path.parent)!r} holds a {path.name} of something else; give a new folder")
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")
        return
    if before is None:
        raise SettingError("out", f"{str(path.parent)!r} holds answers but no {path.name}")
    before = {key: value for key, value in ADDED.items() if key in now} | before
    differing = [
        f"{key} was {before.get(key, 'absent')}, is {now.get(key, 'absent')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if differing:
        raise SettingError("out", f"{str(path.parent)!r} has answers under other settings: {'; '.join(differing)}")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings by dotted key, values as JSON."""
    flat = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value)
    return flat
