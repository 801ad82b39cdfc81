"""What servers are asked for and what becomes of their answers, while all goes well."""

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from transformers import PreTrainedModel

from tests.engine.engines import assert_scored, embedded, make_model, request, run_all, tokens_of
from tests.engine.server.conftest import Connect, MakeStubs
from treepo.engine.base import SampleRequest, SampleResult, SamplingParams
from treepo.engine.server.answers import Vocabulary
from treepo.engine.server.engine import ServerEngine
from treepo.engine.server.weight_sync import DiskSync
from treepo.engine.settings import ServerSettings
from treepo.errors import EngineError
from treepo.utils.numeric import derive_seed

EOS = 2
PROMPT = np.array([1, 5, 9, 4, 7, 3, 8], np.int32)


def expected(model: PreTrainedModel, requests: Sequence[SampleRequest], eos_ids: Sequence[int] = ()) -> list:
    """What the stubs decode: they draw from streams like the embedded engine, with the seeds that they are given."""
    seeded = [replace(r, seed=derive_seed(r.seed, len(r.prefix_ids))) for r in requests]
    return run_all(embedded(model, eos_ids), seeded)


def assert_same(results: Sequence[SampleResult], others: Sequence[SampleResult]) -> None:
    """Token for token, and log-probabilities as well as two forwards agree."""
    assert tokens_of(results) == tokens_of(others)
    for result, other in zip(results, others, strict=True):
        assert result.ended == other.ended
        np.testing.assert_allclose(result.logprobs, other.logprobs, rtol=0, atol=1e-5)


def some_requests(count: int, length: int = 12, num_groups: int = 1) -> list[SampleRequest]:
    """Requests of several prompts, temperatures and groups."""
    prompts = [PROMPT, PROMPT[:1], np.tile(PROMPT, 3)]
    plain = [request(prompts[i % 3], length, seed=i, temperature=(1.0, 0.7, 0.0)[i % 3]) for i in range(count)]
    return [replace(r, group=i % num_groups) for i, r in enumerate(plain)]


def test_results_are_what_the_servers_decode(make_stubs: MakeStubs, connect: Connect) -> None:
    """Tokens, ends and log-probabilities come through exactly, also of a prompt of one token."""
    requests = some_requests(12)
    results = run_all(connect(make_stubs(2), (EOS,)), requests)
    assert_same(results, expected(make_model(), requests, (EOS,)))
    reference = make_model(attention="sdpa")
    for r, result in zip(requests, results, strict=True):
        assert result.token_ids.dtype == np.int32
        assert result.logprobs.dtype == np.float32
        assert_scored(reference, r.prefix_ids, result, r.sampling.temperature or 1.0)


def test_all_that_matters_is_said_in_a_request(make_stubs: MakeStubs, connect: Connect) -> None:
    """What a model's own generation config would set is set by the request; seeds fit into 63 bits."""
    [stub] = make_stubs()
    engine = connect([stub], (EOS,))
    run_all(engine, [replace(request(PROMPT, 3, seed=2**63 - 1), sampling=SamplingParams(0.9, 5, 0.8, 0.1, 1.2))])
    [body] = stub.bodies()
    assert 0 <= body.pop("seed") < 2**63
    assert body == {
        "model": "stub",
        "prompt": PROMPT.tolist(),
        "max_tokens": 3,
        "temperature": 0.9,
        "top_k": 5,
        "top_p": 0.8,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop_token_ids": [EOS],
        "ignore_eos": True,
        "logprobs": 0,
        "return_token_ids": True,
        "skip_special_tokens": False,
    }


def test_a_continuation_has_a_seed_of_its_own(make_stubs: MakeStubs, connect: Connect) -> None:
    """vLLM's generators begin anew with every request, so a child on its parent's stream needs another seed."""
    [stub] = make_stubs()
    run_all(connect([stub]), [request(PROMPT, 2, seed=4), request(PROMPT[:4], 2, seed=4), request(PROMPT, 5, seed=4)])
    seeds = {len(body["prompt"]): body["seed"] for body in stub.bodies()}
    assert len(set(seeds.values())) == 2


def test_an_end_is_told_from_the_last_token_allowed(make_stubs: MakeStubs, connect: Connect) -> None:
    """An end-of-sequence token counts, also as the last one; without one, nothing has ended."""
    whole = expected(make_model(), [request(PROMPT, 12, seed=1)])[0].token_ids.tolist()
    cut = next(i for i in range(1, 12) if whole[i] not in whole[:i])
    engine = connect(make_stubs(), (whole[cut],))
    lengths = [12, cut + 1, cut]
    results = run_all(engine, [request(PROMPT, n, seed=1) for n in lengths])
    assert [(r.token_ids.tolist(), r.ended) for r in results] == [
        (whole[: cut + 1], True),
        (whole[: cut + 1], True),
        (whole[:cut], False),
    ]


def test_groups_stay_at_one_server_and_spread_over_all(make_stubs: MakeStubs, connect: Connect) -> None:
    """Requests of a group go to the server that has its prefix; new groups go to the server with the least to do."""
    stubs = make_stubs(3)
    engine = connect(stubs)
    prompts = [np.append(PROMPT, [group]) for group in range(12)]
    for _ in range(3):
        run_all(engine, [replace(request(p, 5, seed=i), group=g) for i in range(2) for g, p in enumerate(prompts)])
    seen = [{tuple(body["prompt"]) for body in stub.bodies()} for stub in stubs]
    assert [len(prompts) for prompts in seen] == [4, 4, 4]
    assert len(set.union(*seen)) == 12


def test_many_requests_run_at_once(make_stubs: MakeStubs, connect: Connect) -> None:
    """256 requests are handed over together and all come back."""
    stubs = make_stubs(2)
    for stub in stubs:
        stub.delay_s = 0.5
    requests = some_requests(256, length=3, num_groups=16)
    assert_same(run_all(connect(stubs), requests), expected(make_model(), requests))
    assert all(100 < stub.peak <= 128 for stub in stubs)


def test_a_low_limit_of_open_files_is_raised(make_stubs: MakeStubs, connect: Connect) -> None:
    """Each request has a connection, and 1024 files, which is what many systems allow, would be too few for them."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    stubs = make_stubs()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 40, limits[1]))
        engine = connect(stubs)
        assert len(run_all(engine, some_requests(100, length=2))) == 100
        assert engine.fleet.servers[0].last_error == ""
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_room_and_limits_are_those_of_the_servers(make_stubs: MakeStubs, connect: Connect) -> None:
    """Room and capacity add up, the longest sequence is the shortest of theirs, and more than that is refused."""
    stubs = make_stubs(2)
    stubs[1].longest = 100
    engine = connect(stubs)
    assert (engine.num_free_slots, engine.kv_cache_tokens, engine.max_model_len) == (512, 8000, 100)
    engine.submit(request(PROMPT, 3))
    assert engine.num_free_slots == 511
    with pytest.raises(ValueError, match="urls: a sequence of 101 tokens is longer than the servers' 100"):
        engine.submit(request(PROMPT, 94))


def test_cached_tokens_are_counted(make_stubs: MakeStubs, connect: Connect) -> None:
    """As servers report them; what is neither cached nor the last token of a prefix was computed."""
    engine = connect(make_stubs())
    for _ in range(2):
        run_all(engine, [request(np.tile(PROMPT, 3), 4)])
    counters = engine.counters
    assert (counters.num_cached, counters.num_prefilled, counters.num_decoded) == (16, 24, 8)


def test_release_cancels(make_stubs: MakeStubs, connect: Connect) -> None:
    """Requests of a group end without a result, at the server too, and their names may be used again."""
    [stub] = make_stubs()
    engine = connect([stub])
    stub.is_stuck = True
    for i in range(4):
        engine.submit(replace(request(PROMPT, 5, name=i), group=1))
    wait_until(lambda: stub.num_running == 4)
    engine.abort_group(1)
    assert engine.num_free_slots == 256
    wait_until(lambda: stub.num_aborted == 4)
    assert engine.step() == []
    stub.is_stuck = False
    requests = some_requests(4)
    assert_same(run_all(engine, requests), expected(make_model(), requests))


def test_release_forgets_what_is_done_but_was_not_asked_for(make_stubs: MakeStubs, connect: Connect) -> None:
    """A result that waits to be taken goes with its group, whoever has its name by then."""
    [stub] = make_stubs()
    engine = connect([stub])
    engine.submit(replace(request(PROMPT[:2], 5), group=1))
    wait_until(lambda: not engine.finished.empty())
    engine.abort_group(1)
    assert_same(run_all(engine, [request(PROMPT, 5)]), expected(make_model(), [request(PROMPT, 5)]))


def test_the_key_is_sent(make_stubs: MakeStubs, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that want a key are given the one in the environment."""
    stubs = make_stubs()
    stubs[0].key = "secret"
    with pytest.raises(ValueError, match="^servers.urls: .*/v1/models answers 401: .*Unauthorized"):
        connect(stubs)
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    assert run_all(connect(stubs), [request(PROMPT, 2)])


def test_servers_that_cannot_be_used_are_found_out_at_once(make_stubs: MakeStubs, connect: Connect) -> None:
    """In one line that names the setting, the server and what is wrong; no thread stays."""
    stubs = make_stubs(2)
    stubs[1].has_dev_mode = False
    with pytest.raises(
        ValueError, match=f"^servers.urls: start it with VLLM_SERVER_DEV_MODE=1: {stubs[1].url}/weight_info"
    ):
        connect(stubs)
    stubs[1].die()
    with pytest.raises(ValueError, match=f"^servers.urls: {stubs[1].url}/v1/models: .*[Cc]onnect"):
        connect(stubs)
    stubs[0].hangs = True
    with pytest.raises(ValueError, match="^servers.urls: .*/v1/models does not answer$"):
        connect(stubs)
    stubs[0].hangs = False
    with pytest.raises(ValueError, match="^servers.urls: .*/here/v1/models answers 404: .*Not Found"):
        ServerEngine(ServerSettings(urls=(f"{stubs[0].url}/here/",)), DiskSync(), Vocabulary(100, ())).connect()
    assert "servers" not in {thread.name for thread in threading.enumerate()}


def test_settings_are_validated() -> None:
    """Users' errors are one line that names the field."""
    for bad in ("localhost:8000", "ftp://a", "http://", "http://a:x", "http://[a"):
        with pytest.raises(ValueError, match="^urls: must be addresses such as"):
            ServerSettings(urls=(bad,))
    with pytest.raises(ValueError, match="^urls: must differ"):
        ServerSettings(urls=("http://a:1", "http://a:1/"))
    with pytest.raises(ValueError, match="^servers.urls: no server given"):
        ServerEngine(ServerSettings(), DiskSync(), Vocabulary(100, ())).connect()
    with pytest.raises(ValueError, match="^timeout_s: must be positive, got 0"):
        ServerSettings(timeout_s=0)
    with pytest.raises(ValueError, match="^max_retries: must not be negative, got -1"):
        ServerSettings(max_retries=-1)
    for bad in ("", "29600", "host", "host:x", ":29600"):
        with pytest.raises(ValueError, match="^address: must be an address and a port"):
            ServerSettings(sync="nccl", address=bad)


def test_closing_ends_what_is_under_way(make_stubs: MakeStubs, connect: Connect) -> None:
    """Thread, connections and requests are gone; closing twice does no harm."""
    [stub] = make_stubs()
    engine = connect([stub])
    stub.is_stuck = True
    engine.submit(request(PROMPT, 5))
    wait_until(lambda: stub.num_running == 1)
    engine.close()
    engine.close()
    wait_until(lambda: stub.num_aborted == 1)
    with pytest.raises(EngineError, match="the engine was closed"):
        engine.step()


def test_a_program_that_ends_without_closing_is_not_noisy(make_stubs: MakeStubs) -> None:
    """With a request under way, too."""
    [stub] = make_stubs()
    stub.is_stuck = True
    code = (
        "from treepo.engine.server.engine import ServerEngine; from treepo.engine.server.weight_sync import DiskSync; "
        "from treepo.engine.settings import ServerSettings; from treepo.engine import SampleRequest\n"
        "from treepo.engine.server.answers import Vocabulary\n"
        "import numpy as np\n"
        f"engine = ServerEngine(ServerSettings(urls=({stub.url!r},)), DiskSync(), Vocabulary(100, ()))\n"
        "engine.connect(); engine.submit(SampleRequest(0, np.array([1, 2], np.int32), 3, 0)); print('done')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (run.stdout, run.stderr) == ("done\n", "")


def test_impossible_requests_are_refused_at_once(make_stubs: MakeStubs, connect: Connect) -> None:
    """What a server calls impossible is not asked for again."""
    stubs = make_stubs(2)
    engine = connect(stubs)
    for stub in stubs:
        stub.refuses = True
    engine.submit(request(PROMPT, 5))
    with pytest.raises(EngineError, match="/v1/completions answers 400: Token id 5000 is out of vocabulary"):
        engine.step()
    assert len(stubs[0].bodies()) + len(stubs[1].bodies()) == 1
    with pytest.raises(AssertionError):
        engine.submit(request(PROMPT, 0))


def wait_until(holds: object) -> None:
    """Until something holds that other threads bring about; fails after 5 seconds."""
    assert callable(holds)
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)
