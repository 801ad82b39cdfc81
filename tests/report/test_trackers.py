"""Trackers: what each is given, and that none stops a run."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from treepo.errors import TrackerError
from treepo.report.run_log import COLUMNS, SampleRow
from treepo.report.trackers import WANDB_ID, TensorBoard, Tracker, Tracking, Trackio, WandB, as_code

CONFIG = {"train": {"seed": 3}, "optim": {"lr": 0.5, "betas": [0.9, 0.95]}}
STEPS = {0: {"eval/avg": 0.25}, 1: {"reward/mean": 0.5, "tokens/decoded": 70}, 2: {"reward/mean": 0.75}}
HOSTILE = "</pre><script>alert(1)</script> ![x](http://nowhere.invalid/a.png)\n# heading\n```\nend"
SAMPLE = SampleRow(
    problem="p1",
    prompt="2+2=",
    response=HOSTILE,
    extracted_answer="5",
    reward=1.0,
    parts={"correct": 1.0, "overlong": -0.25},
    stop="eos",
    num_tokens=7,
)
CELLS = list(SAMPLE.cells().values())


class Noting:
    """Remembers what it is told; raises where it is told to."""

    def __init__(self, fails_at: str = "") -> None:
        self.fails_at = fails_at
        self.calls: list[tuple[str, object]] = []

    def start(self, config: Mapping[str, Any], run_name: str) -> None:
        self._note("start", run_name)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._note("log", step)

    def table(self, step: int, rows: Sequence[SampleRow]) -> None:
        self._note("table", step)

    def finish(self) -> None:
        self._note("finish", None)

    def _note(self, name: str, what: object) -> None:
        self.calls.append((name, what))
        if name == self.fails_at:
            raise ConnectionError("no answer\nfrom the server")


def track(tracker: Tracker | Tracking) -> None:
    """A whole run."""
    tracker.start(CONFIG, "wide")
    for step, metrics in STEPS.items():
        if step == 2:
            tracker.table(step, [SAMPLE])
        tracker.log(step, metrics)
    tracker.finish()


ALL = [("start", "wide"), ("log", 0), ("log", 1), ("table", 2), ("log", 2), ("finish", None)]


def test_every_tracker_is_told_everything_in_order():
    trackers = {"a": Noting(), "b": Noting()}
    track(Tracking(trackers))
    assert trackers["a"].calls == trackers["b"].calls == ALL


@pytest.mark.parametrize("fails_at", ["log", "table", "finish"])
def test_one_that_fails_is_said_once_and_dropped_and_the_others_go_on(fails_at: str, caplog):
    bad, good = Noting(fails_at), Noting()
    track(Tracking({"bad": bad, "good": good}))
    assert caplog.messages == ["bad failed and gets nothing more; metrics.jsonl has it all: ConnectionError: no answer"]
    assert good.calls == ALL
    assert bad.calls == ALL[: [name for name, _ in ALL].index(fails_at) + 1]


def test_one_that_cannot_start_is_a_mistake_told_in_a_line():
    """Those that were started before are finished, those after it are never begun."""
    first, last = Noting(), Noting()
    with pytest.raises(TrackerError) as caught:
        track(Tracking({"first": first, "bad": Noting("start"), "last": last}))
    assert str(caught.value) == "tracking.trackers: bad cannot be started: ConnectionError: no answer"
    assert first.calls == [("start", "wide"), ("finish", None)]
    assert last.calls == []


def test_an_interruption_is_no_failure_of_a_tracker():
    """Ctrl-C in the middle of a log ends the run."""

    class Interrupted(Noting):
        def log(self, step: int, metrics: Mapping[str, float]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        track(Tracking({"a": Interrupted()}))


class Package(SimpleNamespace):
    """Stands in for wandb and trackio, whose functions have the same names."""

    def __init__(self) -> None:
        calls: list[tuple[Any, ...]] = []
        run = SimpleNamespace(
            id="abc123",
            log=lambda data, step: calls.append((step, data)),
            finish=lambda: calls.append(("finish",)),
        )

        def init(**options: Any) -> SimpleNamespace:
            calls.append(("init", options))
            return run

        super().__init__(init=init, Settings=SimpleNamespace, Table=SimpleNamespace, calls=calls)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_what_the_packages_are_called_with(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Names, settings, figures and rows arrive as they are, each with its step."""
    package = Package()
    monkeypatch.setitem(sys.modules, name, package)
    track(WandB("maths", tmp_path, True) if name == "wandb" else Trackio("maths"))
    (_, options), *logged, end = package.calls
    assert (options["project"], options["name"], options["config"]) == ("maths", "wide", CONFIG)
    assert end == ("finish",)
    (step, table) = logged.pop(2)
    assert dict(logged) == STEPS
    assert (step, table["samples"].columns) == (2, list(COLUMNS))
    assert table["samples"].data == [CELLS]
    assert "correct 1, overlong -0.25" in CELLS
    if name == "wandb":
        assert (options["mode"], options["dir"]) == ("offline", str(tmp_path))
        assert 0 < options["settings"].init_timeout <= 60 and 0 < options["settings"].finish_timeout <= 60


def test_wandb_gets_entity_group_and_tags_and_goes_on_with_the_same_run(monkeypatch, tmp_path):
    """A run that was resumed began another one there, and its curves were in two halves."""
    options = {"entity": "team", "group": "sweep", "tags": ["a", "b"]}
    for expected in ({}, {"id": "abc123", "resume": "allow"}):
        package = Package()
        monkeypatch.setitem(sys.modules, "wandb", package)
        track(WandB("maths", tmp_path, False, options))
        given = package.calls[0][1]
        assert {name: given.get(name) for name in options} == options
        assert {name: given[name] for name in ("id", "resume") if name in given} == expected
    assert (tmp_path / WANDB_ID).read_text() == "abc123\n"


@pytest.mark.parametrize("content", [b"", b"../../x", b"a" * 1000, b"\xff", b"a b"])
def test_an_id_that_is_none_is_passed_over(content, monkeypatch, tmp_path):
    """It stands in a folder that anybody may have made; wandb then begins a run, as it does where there is none."""
    (tmp_path / WANDB_ID).write_bytes(content)
    package = Package()
    monkeypatch.setitem(sys.modules, "wandb", package)
    track(WandB("maths", tmp_path, False))
    assert not {"id", "resume"} & package.calls[0][1].keys()
    assert (tmp_path / WANDB_ID).read_text() == "abc123\n"


def test_a_block_of_code_has_no_line_that_markdown_reads():
    assert as_code(HOSTILE).split("\n") == [f"    {line}" for line in HOSTILE.split("\n")]


def test_tensorboards_own_reader_finds_every_figure(tmp_path: Path):
    pytest.importorskip("tensorboard")
    track(TensorBoard(tmp_path))
    reading = import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reading.EventAccumulator(str(tmp_path))
    events.Reload()
    found: dict[int, dict[str, float]] = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            found.setdefault(event.step, {})[name] = event.value
    assert found == STEPS
    (text,) = events.Tensors("samples/text_summary")
    assert text.step == 2 and as_code(HOSTILE.rsplit("\n", maxsplit=1)[-1]) in text.tensor_proto.string_val[0].decode()


def test_wandb_offline_writes_a_run_and_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb.sdk")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    track(WandB("maths", tmp_path, True))
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert next(folder.glob("run-*.wandb")).stat().st_size > 0
    table = json.loads(next(folder.rglob("*.table.json")).read_text())
    assert (table["columns"], table["data"][0]) == (list(COLUMNS), CELLS)


def test_trackio_keeps_every_figure_on_this_machine(tmp_path: Path):
    """In a process of its own: where it keeps them is decided when it is imported."""
    pytest.importorskip("trackio.table")
    code = "from tests.report.test_trackers import *; track(Trackio('maths'))"
    elsewhere = {"TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"}
    environment = {k: v for k, v in os.environ.items() if k not in elsewhere} | {"TRACKIO_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120, capture_output=True)
    with sqlite3.connect(next(tmp_path.glob("*.db"))) as database:
        rows = database.execute("select step, metrics from metrics").fetchall()
    database.close()
    found: dict[int, dict[str, Any]] = {}
    for step, metrics in rows:
        found.setdefault(step, {}).update(json.loads(metrics))
    (row,) = found[2].pop("samples")["_value"]
    assert found == STEPS
    assert row == dict(zip(COLUMNS, CELLS, strict=True))
