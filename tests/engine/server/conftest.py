"""Stubs of servers, engines over them, short waits, and nothing left behind."""

import threading
from collections.abc import Callable, Iterator

import pytest
from transformers import PreTrainedModel

from tests.engine.engines import make_model
from tests.engine.server.stub import StubServer
from treepo.engine.server import client, fleet
from treepo.engine.server.answers import Vocabulary
from treepo.engine.server.engine import ServerEngine
from treepo.engine.server.weight_sync import DiskSync, WeightSync
from treepo.engine.settings import ServerSettings

MakeStubs = Callable[..., list[StubServer]]
Connect = Callable[..., ServerEngine]

VOCAB_SIZE = 16
"""Of the stubs' models."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of seconds become waits of milliseconds."""
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setattr(fleet, "RETRY_S", 0.01)
    monkeypatch.setattr(fleet, "MAX_RETRY_S", 0.05)
    monkeypatch.setattr(fleet, "DROP_S", 0.5)
    monkeypatch.setattr(client, "QUERY_TIMEOUT_S", 0.5)


@pytest.fixture
def make_stubs() -> Iterator[MakeStubs]:
    """(how many, model) -> servers that are stopped when the test ends."""
    stubs: list[StubServer] = []

    def make(count: int = 1, model: PreTrainedModel | None = None) -> list[StubServer]:
        made = [StubServer(model or make_model()) for _ in range(count)]
        stubs.extend(made)
        return made

    yield make
    for stub in stubs:
        stub.close()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """(servers, eos ids, settings) -> an engine that is connected, and closed when the test ends."""
    engines: list[ServerEngine] = []

    def make(
        stubs: list[StubServer], eos_ids: tuple[int, ...] = (), sync: WeightSync | None = None, **settings: object
    ) -> ServerEngine:
        own = ServerSettings(urls=tuple(stub.url for stub in stubs), **settings)  # type: ignore[arg-type]
        engine = ServerEngine(own, sync or DiskSync(), Vocabulary(VOCAB_SIZE, eos_ids))
        engines.append(engine)
        engine.connect()
        return engine

    yield make
    for engine in engines:
        engine.close()
    assert "servers" not in {thread.name for thread in threading.enumerate()}
