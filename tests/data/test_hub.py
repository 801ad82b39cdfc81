"""Sets on the hub and folders that `datasets` saved."""

import importlib
import json
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from treepo.data import readers as hub
from treepo.data.datasets import load_datasets
from treepo.data.formats import RecordFormat

ROWS = [{"question": f"{i}+1?", "answer": f"so\n#### {i + 1}"} for i in range(3)]


def read(*sources: str):
    return load_datasets(sources, RecordFormat("question", "answer"), lambda text: list(text.encode()), 100).datasets


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets")


@pytest.fixture
def saved(datasets, tmp_path):
    """A folder with two splits as save_to_disk writes it."""
    splits = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "gsm")
    return tmp_path / "gsm"


def test_a_saved_folder_is_read_split_by_split(saved):
    train, test = read(f"gsm8k={saved}@train", f"gsm8k={saved}@test")
    assert [(p.id, p.prompt, p.ground_truth) for p in train.problems] == [
        (f"gsm@train: row {i + 1}", f"{i}+1?", str(i + 1)) for i in range(3)
    ]
    assert [(p.id, p.dataset) for p in test.problems] == [("gsm@test: row 1", "gsm@test")]


def test_a_split_must_be_named_where_there_are_several(saved):
    with pytest.raises(ValueError, match=r"data.train: '.*gsm' holds several splits: name one of \['test', 'train'\]"):
        read(f"gsm8k={saved}")
    with pytest.raises(ValueError, match=r"data.train: no split 'dev' in '.*gsm'; there are \['test', 'train'\]"):
        read(f"gsm8k={saved}@dev")


def test_a_saved_folder_without_splits_has_nested_fields_and_numbers(datasets, tmp_path):
    rows = [{"prompt": [{"role": "user", "content": "1.5+1?"}], "reward": {"truth": 2.5}}]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "one")
    form = RecordFormat("prompt", "reward.truth")
    (only,) = load_datasets([str(tmp_path / "one")], form, lambda text: list(text.encode()), 100).datasets
    assert [(p.id, p.prompt, p.ground_truth) for p in only.problems] == [("one: row 1", "1.5+1?", "2.5")]


def test_a_broken_folder_is_named(datasets, tmp_path):
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "none.arrow"}]}))
    with pytest.raises(ValueError, match=f"data.train: cannot read '{tmp_path}'"):
        read(str(tmp_path))


def error_in_a_process(home: Path, **environment: str) -> str:
    """What is printed where gsm8k is read from a hub that the environment describes, which is read at import."""
    code = (
        "from treepo.data.datasets import load_datasets\n"
        "from treepo.data.formats import RecordFormat\n"
        "try: load_datasets(['gsm8k'], RecordFormat(), lambda text: [1], 100)\n"
        "except ValueError as error: print(error)"
    )
    environment |= {"HF_HOME": str(home), "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout


class NoSuchSet(BaseHTTPRequestHandler):
    """A hub that answers everything as it does where there is no such set."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_a_set_that_the_hub_does_not_have_is_named(datasets, tmp_path):
    """Bug: the first line of the hub's message is `404 Client Error.` and no more."""
    with ThreadingHTTPServer(("127.0.0.1", 0), NoSuchSet) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        printed = error_in_a_process(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert printed.count("\n") == 1
    assert printed.startswith("data.train: cannot read 'openai/gsm8k#main@train' from the hub: 404")
    assert "Repository Not Found" in printed


def test_a_hub_out_of_reach_is_said_at_once(datasets, tmp_path):
    """No connection: one line that says what to name instead, long before `datasets` itself gives up.

    In a process of its own, whose hub is a port of this machine where nobody listens.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    printed = error_in_a_process(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{port}")
    assert printed.count("\n") == 1
    assert printed.startswith("data.train: cannot reach the hub for 'openai/gsm8k#main@train': ")
    assert "as FORMAT=PATH" in printed
    offline = error_in_a_process(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{port}", HF_HUB_OFFLINE="1")
    assert offline.startswith("data.train: cannot read 'openai/gsm8k#main@train' from the hub: ")
    assert "as FORMAT=PATH" in offline


def test_without_datasets_the_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "dataset_dict.json").write_text("{}")
    for source in ("gsm8k", str(tmp_path)):
        with pytest.raises(
            ValueError, match=r"data.train: .* need the package datasets: pip install 'treepo\[datasets\]'"
        ):
            read(source)


def test_a_datasets_that_would_run_code_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(__version__="3.6.0"))
    with pytest.raises(ValueError, match="data.train: datasets 3.6.0 may run code of a dataset; 4 is needed"):
        read("gsm8k")


class StandIn:
    """A set with the little that is used of one."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def with_format(self, kind: str) -> "StandIn":
        assert kind == "arrow"
        return self

    def iter(self, batch_size: int):
        pa = importlib.import_module("pyarrow")
        for start in range(0, len(self.rows), 2):
            yield pa.Table.from_pylist(self.rows[start : start + 2])


def test_what_the_hub_is_asked_for(monkeypatch):
    """Name, folder, configuration and split go where `datasets` takes them, and code is never asked for."""
    asked = []

    def load_dataset(*args: Any, **settings: Any) -> Any:
        asked.append((args, settings))
        return StandIn(ROWS) if settings["split"] else {"train": StandIn(ROWS)}

    fake = SimpleNamespace(load_dataset=load_dataset, config=SimpleNamespace(HF_HUB_OFFLINE=True))
    monkeypatch.setattr(hub, "_import_datasets", lambda: fake)
    sets = read("gsm8k@test", "org/name", "org/name/some/folder#c@dev")
    assert asked == [
        (("openai/gsm8k", "main"), {"data_dir": None, "split": "test"}),
        (("org/name", None), {"data_dir": None, "split": None}),
        (("org/name", "c"), {"data_dir": "some/folder", "split": "dev"}),
    ]
    assert [p.id for p in sets[0].problems] == [f"openai/gsm8k#main@test: row {i}" for i in (1, 2, 3)]
    assert [s.name for s in sets] == ["gsm8k", "name", "folder"]


def test_text_that_is_no_utf8_is_told_with_its_set(monkeypatch):
    """The message began with the codec and named no set."""
    pa = importlib.import_module("pyarrow")
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xe9")])

    class Broken(StandIn):
        def iter(self, batch_size: int):
            yield pa.table({"question": broken, "answer": ["1"]})

    fake = SimpleNamespace(load_dataset=lambda *_, **__: Broken(ROWS), config=SimpleNamespace(HF_HUB_OFFLINE=True))
    monkeypatch.setattr(hub, "_import_datasets", lambda: fake)
    with pytest.raises(ValueError, match="data.train: cannot read 'org/name@train': .*Invalid UTF8"):
        read("org/name@train")
