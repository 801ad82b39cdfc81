"""Servers that die, hang, are busy, talk nonsense or come back with other weights: no tree is lost."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from aiohttp import web
from transformers import PreTrainedModel

from tests.engine.engines import make_model, request, run_all
from tests.engine.server.conftest import Connect, MakeStubs
from tests.engine.server.stub import StubServer
from tests.engine.server.test_servers import EOS, PROMPT, assert_same, expected, some_requests, wait_until
from treepo.data.problem import Problem
from treepo.engine.server import client, fleet
from treepo.engine.server.engine import ServerEngine
from treepo.errors import EngineError
from treepo.grow.branching import EvenBranching, InitialFork
from treepo.grow.builder import GrowthRules
from treepo.grow.fallback import Backtrack
from treepo.grow.sampler import TreeSampler
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import StopRules
from treepo.tree import Tree
from treepo.verify import FinalAnswer


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return make_model()


@pytest.mark.parametrize("num_left", [0, 1, 5])
def test_a_dying_servers_requests_come_back_from_others(
    make_stubs: MakeStubs, connect: Connect, model: PreTrainedModel, num_left: int
) -> None:
    """Whatever it was asked for when its connections broke, and whatever it is asked for later: the same results."""
    stubs = make_stubs(3)
    for stub in stubs:
        stub.delay_s = 0.02
    engine = connect(stubs)
    stubs[1].num_left = num_left
    for _ in range(2):
        requests = some_requests(24, num_groups=6)
        assert_same(run_all(engine, requests), expected(model, requests))
    assert stubs[1] not in [stub for stub in stubs if stub.url in {s.url for s in engine.fleet.alive}]
    assert engine.num_free_slots == 512


def test_dead_servers_are_not_asked_again(make_stubs: MakeStubs, connect: Connect) -> None:
    """One request of many finds out; later ones go to the others at once."""
    stubs = make_stubs(2)
    engine = connect(stubs)
    stubs[0].die()
    run_all(engine, some_requests(8, num_groups=4))
    calls = len(stubs[0].calls)
    run_all(engine, some_requests(8, num_groups=4))
    assert len(stubs[0].calls) == calls
    assert {server.url for server in engine.fleet.home.values()} == {stubs[1].url}


def test_many_that_fail_together_ask_once(make_stubs: MakeStubs, connect: Connect) -> None:
    """Whether the server is alive; a crowd of questions would take a connection each."""
    [stub] = make_stubs()
    engine = connect([stub])
    [server] = engine.fleet.servers
    asked = len(stub.calls)

    async def check() -> None:
        server.is_alive = False
        await asyncio.gather(*(engine.fleet._check(server) for _ in range(50)))

    for count in (1, 2):
        engine._wait_for(check())
        assert server.is_alive
        assert stub.paths()[asked:] == count * ["/weight_info"]


def test_retries_are_bounded(make_stubs: MakeStubs, connect: Connect) -> None:
    """When no server is left, the error is one line that names the setting and each server's reason."""
    stubs = make_stubs(2)
    engine = connect(stubs, max_retries=3)
    stubs[0].die()
    stubs[1].broken.add("/v1/completions")
    engine.submit(request(PROMPT, 5))
    with pytest.raises(EngineError, match="^servers.urls: gave up after 4 attempts: ") as raised:
        engine.step()
    message = str(raised.value)
    assert f"{stubs[0].url}/" in message and "onnect" in message
    assert f"{stubs[1].url}/v1/completions answers 500: EngineCore encountered an issue." in message
    assert "\n" not in message
    assert 2 <= len(stubs[1].bodies()) <= 4
    assert engine.step() == []


def test_without_retries_the_first_failure_is_the_last(make_stubs: MakeStubs, connect: Connect) -> None:
    """max_retries = 0 asks once."""
    [stub] = make_stubs()
    engine = connect([stub], max_retries=0)
    stub.num_busy = 1
    engine.submit(request(PROMPT, 5))
    with pytest.raises(EngineError, match="gave up after 1 attempts: .* answers 503: Server is busy"):
        engine.step()
    assert run_all(engine, [request(PROMPT, 5)])


def test_a_busy_server_is_asked_again(make_stubs: MakeStubs, connect: Connect, model: PreTrainedModel) -> None:
    """After some 503 it answers, and its only request waits for it in between."""
    [stub] = make_stubs()
    stub.num_busy = 3
    requests = [request(PROMPT, 6)]
    assert_same(run_all(connect([stub]), requests), expected(model, requests))
    assert len(stub.bodies()) == 4


def change_choice(change: Callable[[dict[str, Any]], None]) -> Callable[[Any], Any]:
    def changed(answer: Any) -> Any:
        copy = json.loads(json.dumps(answer))
        change(copy["choices"][0])
        return copy

    return changed


def cut(choice: dict[str, Any]) -> None:
    choice["token_ids"], choice["finish_reason"] = choice["token_ids"][:2], "abort"
    choice["logprobs"]["token_logprobs"] = choice["logprobs"]["token_logprobs"][:2]


NONSENSE: dict[str, Callable[[Any], Any]] = {
    "partial": change_choice(cut),
    "no token ids": change_choice(lambda choice: choice.update(token_ids=None)),
    "no log-probabilities": change_choice(lambda choice: choice.update(logprobs=None)),
    "fewer log-probabilities": change_choice(lambda choice: choice["logprobs"]["token_logprobs"].pop()),
    "no choices": lambda answer: answer | {"choices": []},
    "no usage": lambda answer: {"choices": answer["choices"]},
    "another sort": lambda answer: [1, 2],
    "no json": lambda answer: web.Response(text="<html>It works!</html>"),
    "nothing": lambda answer: web.Response(text=""),
    "bytes": lambda answer: web.Response(body=b"\xff\xfe\x00"),
    "gateway": lambda answer: web.Response(status=502, text="Bad Gateway"),
    "other model": lambda answer: web.Response(status=404, text="The model `stub` does not exist."),
}


@pytest.mark.parametrize("sort", NONSENSE)
def test_answers_that_are_not_what_was_asked_for_are_asked_for_elsewhere(
    make_stubs: MakeStubs, connect: Connect, model: PreTrainedModel, sort: str
) -> None:
    """Partial ones, as servers give that shut down or pause, and all sorts of nonsense."""
    stubs = make_stubs(2)
    engine = connect(stubs)
    stubs[0].change = NONSENSE[sort]
    requests = some_requests(6, num_groups=3)
    assert_same(run_all(engine, requests), expected(model, requests))
    assert stubs[0].bodies()


def test_logits_that_are_not_finite_are_an_error(make_stubs: MakeStubs, connect: Connect) -> None:
    """A broken model does not hand out tokens, and no other server is asked; vLLM says it in one of two ways."""
    message = {"error": {"message": "Out of range float values are not JSON compliant", "code": 400}}
    for change in (
        change_choice(lambda choice: choice["logprobs"].update(token_logprobs=[-1.0, -9999.0, -1.0])),
        lambda answer: web.json_response(message, status=400),
    ):
        stubs = make_stubs(2)
        engine = connect(stubs)
        for stub in stubs:
            stub.change = change
        engine.submit(request(PROMPT, 3))
        with pytest.raises(FloatingPointError, match="not finite"):
            engine.step()
        assert sum(len(stub.bodies()) for stub in stubs) == 1


@pytest.mark.parametrize("how", ["hangs", "is_stuck"])
def test_hanging_servers_time_out(
    make_stubs: MakeStubs, connect: Connect, model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Whether they answer nothing or only no segment: requests go elsewhere and come back complete."""
    monkeypatch.setattr(client, "QUERY_TIMEOUT_S", 0.1)
    stubs = make_stubs(2)
    engine = connect(stubs, timeout_s=0.6)
    setattr(stubs[0], how, True)
    requests = some_requests(6, num_groups=2)
    assert_same(run_all(engine, requests), expected(model, requests))
    assert len(engine.fleet.alive) == (1 if how == "hangs" else 2)


def restart(stub: StubServer) -> None:
    stub.die()
    stub.start()


def test_a_restarted_server_is_not_used_until_the_next_update(make_stubs: MakeStubs, connect: Connect) -> None:
    """It answers, but with the weights that it was started with: also where nobody saw it die."""
    stubs = make_stubs(2)
    engine = connect(stubs)
    newer = make_model(seed=1)
    engine.update_weights(newer)
    restart(stubs[0])
    requests = some_requests(8, num_groups=4)
    assert_same(run_all(engine, requests), expected(newer, requests))
    assert [server.url for server in engine.fleet.alive] == [stubs[1].url]
    newest = make_model(seed=2)
    engine.update_weights(newest)
    assert len(engine.fleet.alive) == 2
    assert_same(run_all(engine, requests), expected(newest, requests))


def test_when_all_have_lost_their_weights_it_is_said(make_stubs: MakeStubs, connect: Connect) -> None:
    """Rather than sampling from old ones."""
    [stub] = make_stubs()
    engine = connect([stub], max_retries=2)
    engine.update_weights(make_model(seed=1))
    restart(stub)
    engine.submit(request(PROMPT, 5))
    with pytest.raises(EngineError, match=f"gave up after 3 attempts: {stub.url} has lost the weights"):
        engine.step()


def test_weights_of_an_earlier_run_count_until_they_are_lost(make_stubs: MakeStubs, connect: Connect) -> None:
    """A server that has what an earlier run left it, and is started again, has something else."""
    [stub] = make_stubs()
    stub.version = "treepo-earlier"
    engine = connect([stub], max_retries=1)
    assert run_all(engine, [request(PROMPT, 5)])
    restart(stub)
    engine.submit(request(PROMPT, 5))
    with pytest.raises(EngineError, match="has lost the weights"):
        engine.step()


def test_one_that_comes_back_with_its_weights_is_used_again(
    make_stubs: MakeStubs, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that was away for a while: nobody but the engine itself looks after it."""
    monkeypatch.setattr(fleet, "WATCH_S", 0.02)
    stubs = make_stubs(2)
    engine = connect(stubs)
    stubs[0].die()
    run_all(engine, some_requests(4, num_groups=4))
    assert len(engine.fleet.alive) == 1
    stubs[0].start()
    wait_until(lambda: len(engine.fleet.alive) == 2)


def grow(engine: ServerEngine, prompt: Sequence[int] = tuple(PROMPT.tolist())) -> list[Tree]:
    """Six trees, in the order of their problems."""
    shape = TreeShape(width=6, depth=5, segment_len=6)
    rules = GrowthRules(shape, InitialFork(2, 4), EvenBranching(), Backtrack(), StopRules(), str, FinalAnswer())
    problems = [Problem(f"p{i}", "", (*prompt, 3 + i), "") for i in range(6)]
    trees = dict(TreeSampler(engine, rules).grow(problems, seed=7))
    return [trees[i] for i in range(len(problems))]


def assert_same_trees(trees: Sequence[Tree], others: Sequence[Tree]) -> None:
    """Complete, and node by node the same."""
    for tree, other in zip(trees, others, strict=True):
        assert len(tree.leaves()) >= 6
        assert [(n.parent, n.seed, n.stop) for n in tree.nodes] == [(n.parent, n.seed, n.stop) for n in other.nodes]
        for node, twin in zip(tree.nodes, other.nodes, strict=True):
            assert node.token_ids.tolist() == twin.token_ids.tolist()


def test_trees_do_not_notice_that_a_server_dies(make_stubs: MakeStubs, connect: Connect) -> None:
    """Complete, and node by node those that grow when none does."""
    wanted = grow(connect(make_stubs(2), (EOS,)))
    stubs = make_stubs(2)
    engine = connect(stubs, (EOS,))
    stubs[0].num_left = 20
    trees = grow(engine)
    assert len(engine.fleet.alive) == 1
    assert len(stubs[0].bodies()) > 20
    assert_same_trees(trees, wanted)
