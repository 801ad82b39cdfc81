"""Two of vLLM's own servers, on this machine's CPU."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from tests.engine.engines import SIZES, assert_scored, make_model, naive, needs_vllm, request, run_all, tokens_of
from tests.engine.server.test_failures import assert_same_trees, grow
from tests.models import make_tiny_tokenizer, save_tiny_model
from treepo.engine.base import SampleRequest, SamplingParams
from treepo.engine.server.answers import Vocabulary
from treepo.engine.server.engine import ServerEngine
from treepo.engine.server.weight_sync import DiskSync
from treepo.engine.settings import ServerSettings
from treepo.errors import EngineError

pytestmark = needs_vllm

LONGEST, BATCH = 128, 32
PROMPTS = [np.array(ids, np.int32) for ids in ([9], [5, 9, 14, 7, 23], [*range(10, 60)], [7, 30] * 35)]
ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


@dataclass
class Process:
    """A server in a session of its own, so that its workers go with it."""

    url: str
    popen: subprocess.Popen
    log: Path

    def kill(self) -> None:
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()

    def wait_until_it_answers(self) -> None:
        for _ in range(600):
            assert self.popen.poll() is None, self.log.read_text()[-3000:]
            try:
                with urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(self.log.read_text()[-3000:])


def start(folder: Path) -> Process:
    """What `vllm serve` does; that command itself needs the distribution to be called vllm, which vllm-cpu is not."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [
        *("--model", str(folder / "model"), "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"),
        *("--max-model-len", str(LONGEST), "--max-num-seqs", str(BATCH), "--block-size", "32", "--enforce-eager"),
        *("--max-num-batched-tokens", str(LONGEST * BATCH), "--enable-prompt-tokens-details"),
        *("--logprobs-mode", "processed_logprobs"),
    ]
    log = folder / f"server-{port}.log"
    with log.open("w") as file:
        popen = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | ENVIRONMENT,
            cwd=folder,
            start_new_session=True,
        )
    return Process(f"http://127.0.0.1:{port}", popen, log)


def make(seed: int = 0, attention: str = "sdpa") -> PreTrainedModel:
    """A model as large as its tokenizer, which servers have to have."""
    return make_model(seed=seed, attention=attention, vocab_size=len(make_tiny_tokenizer()))


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Process]]:
    """Two servers with the model of seed 0, killed at the end whatever happens."""
    folder = tmp_path_factory.mktemp("servers")
    save_tiny_model(folder / "model", **SIZES)
    started: list[Process] = []
    try:
        started.append(start(folder))
        started.append(start(folder))
        for process in started:
            process.wait_until_it_answers()
        yield started
    finally:
        for process in started:
            process.kill()


@pytest.fixture
def engine(processes: list[Process], monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerEngine]:
    """Over both servers, with the waits that users have, and the weights of seed 0."""
    monkeypatch.undo()
    engine = ServerEngine(
        ServerSettings(urls=tuple(p.url for p in processes)), DiskSync(), Vocabulary(10**6, ()), max_num_seqs=BATCH
    )
    engine.connect()
    engine.update_weights(make())
    yield engine
    engine.close()


def requests_at(*temperatures: float) -> list[SampleRequest]:
    """Of all prompts, each in a group of its own."""
    plain = [request(prompt, 20, seed=3, temperature=t) for t in temperatures for prompt in PROMPTS]
    return [replace(r, group=i) for i, r in enumerate(plain)]


def assert_is(engine: ServerEngine, model: PreTrainedModel) -> None:
    """Greedy tokens are the model's own, and log-probabilities those of one forward, at temperature 0.7 too."""
    greedy = requests_at(0.0)
    results = run_all(engine, greedy)
    assert tokens_of(results) == [naive(model, r, ())[0] for r in greedy]
    for r, result in zip(greedy, results, strict=True):
        assert_scored(model, r.prefix_ids, result)
    drawn = requests_at(1.0, 0.7)
    for r, result in zip(drawn, run_all(engine, drawn), strict=True):
        assert_scored(model, r.prefix_ids, result, r.sampling.temperature)


def test_the_model_is_served_before_and_after_updates(processes: list[Process], engine: ServerEngine) -> None:
    """As transformers computes it, with the weights that servers were started with and after each of three updates."""
    assert (engine.max_model_len, engine.num_free_slots) == (LONGEST, 2 * BATCH)
    assert 100_000 < engine.kv_cache_tokens < 10_000_000
    assert_is(engine, make())
    for seed in (1, 2, 3):
        model = make(seed)
        engine.update_weights(model)
        assert_is(engine, model)
    versions = [urlopen(f"{process.url}/weight_info").read() for process in processes]
    assert versions[0] == versions[1] != b'{"weight_version":"default"}'


def test_trees_repeat_and_prefixes_are_cached(engine: ServerEngine) -> None:
    """The same seed grows the same trees; after an update nothing is known, and then whole blocks are."""
    trees = grow(engine, PROMPTS[2].tolist())
    cold = engine.counters
    assert cold.num_prefilled >= 6 * 50
    assert_same_trees(grow(engine, PROMPTS[2].tolist()), trees)
    warm = engine.counters - cold
    assert warm.num_cached > cold.num_cached > 0
    assert warm.num_cached % 32 == 0
    assert warm.num_cached + warm.num_prefilled == cold.num_cached + cold.num_prefilled
    for tree in trees:
        for leaf in tree.leaves():
            ids = tree.ids(leaf)
            assert len(ids) <= LONGEST


def test_many_requests_at_once(engine: ServerEngine) -> None:
    """256, more than are decoded at a time, give what each gives in another company."""
    requests = [replace(request(PROMPTS[i % 4], 8, seed=i), group=i % 16) for i in range(256)]
    results = run_all(engine, requests)
    assert tokens_of(run_all(engine, requests[::-1]))[::-1] == tokens_of(results)
    reference = make()
    for r, result in zip(requests[:32], results, strict=False):
        assert_scored(reference, r.prefix_ids, result)


def test_ends_truncation_and_extreme_seeds(engine: ServerEngine) -> None:
    """An end-of-sequence token is in the answer and nothing behind it; the model's own one does not end anything."""
    whole = run_all(engine, [request(PROMPTS[1], 60, seed=1)])[0].token_ids.tolist()
    cut = next(i for i in range(3, 60) if whole[i] not in whole[:i])
    engine.vocabulary = Vocabulary(10**6, (whole[cut],))
    result = run_all(engine, [request(PROMPTS[1], 60, seed=1)])[0]
    assert (result.token_ids.tolist(), result.ended) == (whole[: cut + 1], True)
    engine.vocabulary = Vocabulary(10**6, ())
    hot = run_all(engine, [request(PROMPTS[1], 100, seed=i, temperature=2.0) for i in range(40)])
    assert any(make().config.eos_token_id in tokens[:-1] for tokens in tokens_of(hot))
    assert all(len(result.token_ids) == 100 for result in hot)
    only = [replace(r, sampling=SamplingParams(1.7, top_k=1)) for r in requests_at(1.0)]
    assert tokens_of(run_all(engine, only)) == tokens_of(run_all(engine, requests_at(0.0)))
    seeds = [0, 1, 2**62, 2**63 - 1]
    assert len({tuple(t) for t in tokens_of(run_all(engine, [request(PROMPTS[1], 20, seed=s) for s in seeds]))}) == 4


def test_penalized_greedy_answers_are_computed_from_scratch(engine: ServerEngine) -> None:
    """vLLM's own repetition penalty is that of the other engines; log-probabilities are those behind it."""
    sampling, reference = SamplingParams(0.0, repetition_penalty=1.4), make()
    requests = [replace(request(prompt, 12), sampling=sampling) for prompt in PROMPTS]
    results = run_all(engine, requests)
    free = run_all(engine, [replace(r, sampling=SamplingParams(0.0)) for r in requests])
    assert tokens_of(results) != tokens_of(free)
    for r, result in zip(requests, results, strict=True):
        tokens, logprobs, _ = naive(reference, r, ())
        assert result.token_ids.tolist() == tokens
        np.testing.assert_allclose(result.logprobs, logprobs, rtol=0, atol=1e-4)


def test_released_requests_end_at_the_servers(engine: ServerEngine) -> None:
    """An update right after it does not find them running."""
    for i in range(40):
        engine.submit(replace(request(PROMPTS[1], 100, seed=i, name=i), group=i % 4))
    for group in range(4):
        engine.abort_group(group)
    model = make(4)
    engine.update_weights(model)
    assert len(engine.fleet.alive) == 2
    assert_is(engine, model)


def test_what_vllm_refuses_is_an_error_at_once(engine: ServerEngine) -> None:
    """In its own words."""
    engine.submit(request([5000], 3))
    with pytest.raises(EngineError, match="/v1/completions answers 400: Token id 5000 is out of vocabulary"):
        engine.step()


def test_logits_that_are_not_finite_are_an_error(engine: ServerEngine) -> None:
    """A broken model does not hand out tokens."""
    model = make()
    with torch.no_grad():
        next(model.parameters())[5, 0] = float("nan")
    engine.update_weights(model)
    engine.submit(request(PROMPTS[1], 3))
    with pytest.raises(FloatingPointError, match="not finite"):
        engine.step()


def test_trees_survive_a_server(
    processes: list[Process], engine: ServerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of a rollout: all trees are there, and those that grow without it. The last test here."""
    wanted = grow(engine, PROMPTS[2].tolist())
    submit, number = engine.submit, count()

    def submit_and_kill(r: SampleRequest) -> None:
        submit(r)
        if next(number) == 30:
            processes[0].kill()

    monkeypatch.setattr(engine, "submit", submit_and_kill)
    trees = grow(engine, PROMPTS[2].tolist())
    assert next(number) > 31
    assert_same_trees(trees, wanted)
    assert [server.url for server in engine.fleet.alive] == [processes[1].url]
    monkeypatch.undo()
    engine.update_weights(make(5))
    assert_is(engine, make(5))
