"""Engines of several processes over the same servers: one leads, the others follow."""

import time
from threading import Thread

import pytest

from tests.engine.engines import make_model, run_all
from tests.engine.server.conftest import Connect, MakeStubs
from tests.engine.server.stub import StubServer
from tests.engine.server.test_servers import assert_same, expected, some_requests
from treepo.engine.server.answers import Vocabulary
from treepo.engine.server.engine import ServerEngine
from treepo.engine.server.weight_sync import DiskSync
from treepo.engine.settings import ServerSettings
from treepo.errors import EngineError


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
