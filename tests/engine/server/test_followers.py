"""Engines of several processes over the same servers: one leads, the others follow."""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from tests.engine.engines import make_model, run_all
from tests.engine.server.conftest import Connect, MakeStubs
from tests.engine.server.stub import StubServer
from tests.engine.server.test_servers import assert_same, expected, some_requests
from tests.processes import run_in
from treepo.distributed import DistContext
from treepo.engine.server.answers import Vocabulary
from treepo.engine.server.client import Server
from treepo.engine.server.engine import ServerEngine
from treepo.engine.server.weight_sync import DiskSync
from treepo.engine.settings import EngineSettings, ServerSettings, VllmSettings
from treepo.engine.weights import give_weights
from treepo.errors import EngineError, PeerError, ServerError
from treepo.model.exported import ExportedWeights
from treepo.model.fsdp import shard
from treepo.model.policy import Policy
from treepo.run.engine import build_engine


def follower_of(leader: ServerEngine, stubs: list[StubServer], **settings: float) -> ServerEngine:
    how = ServerSettings(urls=tuple(stub.url for stub in stubs), **settings)  # type: ignore[arg-type]
    engine = ServerEngine(how, DiskSync(), Vocabulary(100, ()), name=leader.name, leads=False)
    engine.connect()
    return engine


def test_a_follower_waits_for_the_weights_that_the_leader_sends(make_stubs: MakeStubs, connect: Connect) -> None:
    """It sends none itself, asks for nothing before they are there, and decodes with them then."""
    stubs, model = make_stubs(2), make_model(seed=1)
    leader = connect(stubs)
    follower = follower_of(leader, stubs)
    try:
        waiting = Thread(target=follower.update_weights, args=(model,))
        waiting.start()
        time.sleep(0.3)
        assert waiting.is_alive(), "the servers still have the weights before"
        leader.update_weights(model)
        waiting.join(20)
        assert not waiting.is_alive()
        requests = some_requests(6)
        assert_same(run_all(follower, requests), expected(model, requests))
        assert_same(run_all(leader, requests), expected(model, requests))
        assert sum(path == "/collective_rpc" for stub in stubs for path in stub.paths()) == len(stubs)
    finally:
        follower.close()


def test_a_follower_gives_up_where_nobody_leads(make_stubs: MakeStubs, connect: Connect) -> None:
    """A leader that failed must not leave it waiting for ever."""
    stubs = make_stubs()
    follower = follower_of(connect(stubs), stubs, timeout_s=0.5)
    try:
        with pytest.raises(EngineError, match="no server took the new weights"):
            follower.update_weights(make_model())
    finally:
        follower.close()


class Breaking(DiskSync):
    """Fails when it has sent one weight."""

    async def __call__(self, servers: Sequence[Server], weights: ExportedWeights) -> list[Server]:
        next(iter(weights))
        raise ServerError("the line is cut")


def serve_sharded(processes: DistContext, folder: Path, url: str) -> None:
    model, tokenizer = make_model(seed=3), None
    shard(model, init_device_mesh("cpu", (2,)))
    engine: Any = build_engine(
        Policy(model, tokenizer),  # type: ignore[arg-type]
        EngineSettings(kind="servers", max_num_seqs=8),
        vllm=VllmSettings(),
        servers=ServerSettings(urls=(url,), dtype="float32"),
        max_model_len=64,
        eos_ids=(),
        processes=processes,
    )
    with closing(engine):
        requests = some_requests(6)
        assert_same(run_all(engine, requests), expected(make_model(seed=3), requests))
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        engine.sync = Breaking()
        with pytest.raises(EngineError if processes.is_first else PeerError, match="the line is cut"):
            give_weights(engine, model, processes)


def test_processes_that_share_a_model_send_it_together(make_stubs: MakeStubs, tmp_path: Path) -> None:
    """Layer by layer, from both into the leader's hands; where that fails the other one ends, too, and at once."""
    (stub,) = make_stubs()
    run_in(2, serve_sharded, tmp_path, stub.url)
    assert stub.paths().count("/collective_rpc") == 1
