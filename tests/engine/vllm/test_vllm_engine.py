"""What is vLLM's own: blocks, little memory, prefixes in parts, types, adapters."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from tests.engine.engines import assert_scored, make_model, naive, needs_vllm, request, run_all, tokens_of, vllm
from tests.models import save_tiny_model
from treepo.engine.base import SamplingParams, max_logprob_diff
from treepo.engine.settings import EngineSettings, VllmSettings
from treepo.engine.vllm.engine import RequestGenerators, VllmEngine
from treepo.engine.vllm.start import start_vllm
from treepo.errors import SettingError
from treepo.model.adapters import add_adapter
from treepo.model.lora import merged
from treepo.model.probe import sequence_logprobs
from treepo.model.settings import LoraSettings

pytestmark = needs_vllm

BLOCK = 32
KEPT: list[Any] = []
"""Engines that live as long as the session: when one of several ends, the others break."""


def start(model: PreTrainedModel, settings: VllmSettings = VllmSettings(), **limits: int) -> VllmEngine:  # noqa: B008
    """An engine of its own."""
    generators = RequestGenerators()
    max_model_len = limits.pop("max_model_len", 256)
    wanted = replace(EngineSettings(max_num_seqs=64, max_num_batched_tokens=512, max_cache_tokens=8192), **limits)
    core = start_vllm(replace(settings, max_model_len=max_model_len), wanted, model, generators)
    KEPT.append(core)
    engine = VllmEngine(core, generators, ())
    engine.update_weights(model)
    return engine


CLOSING = """
from tests.engine.engines import make_model, request, run_all, tokens_of
from treepo.engine.settings import EngineSettings, VllmSettings
from treepo.engine.vllm.engine import RequestGenerators, VllmEngine
from treepo.engine.vllm.start import start_vllm

found, model = [], make_model()
for _ in range(2):
    generators = RequestGenerators()
    limits = EngineSettings(max_num_seqs=8, max_num_batched_tokens=256, max_cache_tokens=1024)
    engine = VllmEngine(start_vllm(VllmSettings(max_model_len=128), limits, model, generators), generators, ())
    engine.update_weights(model)
    found.append(tokens_of(run_all(engine, [request([3, 4, 5], 9, seed=i) for i in range(4)])))
    engine.submit(request([3, 4], 50))
    engine.step()
    engine.close()
    engine.close()
    assert not generators.streams
assert found[0] == found[1]
"""


def test_a_closed_engine_makes_way_for_another() -> None:
    """In a process of its own: closing one breaks the others. Requests that run when it is closed do no harm."""
    subprocess.run([sys.executable, "-c", CLOSING], check=True, timeout=300)


@pytest.mark.parametrize(("length", "cached"), [(33, 32), (34, 32), (64, 32), (65, 64), (66, 64), (32, 0)])
def test_what_is_cached_is_whole_blocks_before_the_last_token(length: int, cached: int) -> None:
    """One past a border nothing is computed but the last token, at a border a whole block: floor((n - 1) / 32) x 32."""
    engine = vllm(make_model())
    prefix = np.random.default_rng(length).integers(3, 16, size=length)
    run_all(engine, [request(prefix, 1)])
    before = engine.counters
    run_all(engine, [request(prefix, 2, seed=1)])
    used = engine.counters - before
    assert (used.num_cached, used.num_prefilled) == (cached, length - 1 - cached)


def test_generated_blocks_are_cached() -> None:
    """What was decoded is part of the prefix of what follows, also of siblings submitted together."""
    engine = vllm(make_model())
    first = run_all(engine, [request(np.arange(3, 13), 55, seed=1)])[0]
    prefix = np.concatenate([np.arange(3, 13), first.token_ids])
    before = engine.counters
    run_all(engine, [request(prefix, 4, seed=i) for i in range(4)])
    used = engine.counters - before
    assert (used.num_cached, used.num_prefilled) == (4 * 64, 0)


def test_little_memory_changes_no_token() -> None:
    """Twelve sequences of 110 tokens in a cache of 300: vLLM makes some wait and computes them again."""
    model = make_model()
    engine = start(model, max_cache_tokens=300)
    assert engine.kv_cache_tokens == 10 * BLOCK
    reference = make_model(attention="sdpa")
    requests = [request(np.random.default_rng(i).integers(3, 16, size=10), 100, seed=i) for i in range(12)]
    scheduler, num_preempted = engine.core.engine_core.engine_core.scheduler, 0
    preempt = scheduler._preempt_request

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal num_preempted
        num_preempted += 1
        return preempt(*arguments, **named)

    scheduler._preempt_request = counted
    results = run_all(engine, requests)
    assert num_preempted > 0
    for r, result in zip(requests, results, strict=True):
        assert result.token_ids.tolist() == naive(reference, r, ())[0]
        assert_scored(reference, r.prefix_ids, result)
    assert engine.peak_tokens <= engine.kv_cache_tokens


def test_prefixes_in_parts_change_no_token() -> None:
    """With room for 16 tokens in a forward, prefixes of up to 100 take several, some of them beside decoding."""
    engine = start(make_model(), max_num_batched_tokens=16, max_num_seqs=8)
    reference = make_model(attention="sdpa")
    requests = [request(np.random.default_rng(i).integers(3, 16, size=10 * i + 5), 9, seed=i) for i in range(10)]
    for r, result in zip(requests, run_all(engine, requests), strict=True):
        assert result.token_ids.tolist() == naive(reference, r, ())[0]
        assert_scored(reference, r.prefix_ids, result)


def test_a_narrow_engine_under_a_wide_trainer() -> None:
    """Weights of float32 are handed to vLLM in bfloat16: near, but not the same, also after an update."""
    model = make_model()
    engine = start(model, VllmSettings(dtype="bfloat16"))
    for seed in (0, 1):
        model.load_state_dict(make_model(seed=seed).state_dict())
        engine.update_weights(model)
        reference, prefix = make_model(seed=seed, attention="sdpa"), np.arange(3, 16)
        result = run_all(engine, [request(prefix, 20, seed=5)])[0]
        assert_scored(reference, prefix, result, atol=0.15)
        with pytest.raises(AssertionError):
            assert_scored(reference, prefix, result, atol=1e-5)


def test_adapters_are_merged_on_the_way() -> None:
    """vLLM samples from the sum of weights and adapters; those of the model stay apart."""
    pytest.importorskip("peft")
    model = make_model("llama")
    add_adapter(model, LoraSettings(rank=4), seed=0)
    engine = vllm(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    frozen = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    engine.update_weights(model)
    reference, prefix = merged(model), np.arange(3, 16)
    reference.set_attn_implementation("sdpa")
    result = run_all(engine, [request(prefix, 30, seed=5)])[0]
    assert_scored(reference, prefix, result)
    assert tokens_of([result]) != tokens_of(run_all(vllm(make_model("llama")), [request(prefix, 30, seed=5)]))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, frozen[name], rtol=0, atol=0)


def test_a_request_that_can_never_fit_is_refused() -> None:
    """vLLM would end it without a word where its context ends."""
    with pytest.raises(ValueError, match="^vllm.max_model_len: must hold a sequence of 513 tokens, got 512"):
        vllm(make_model()).submit(request(np.arange(3, 16), 500))


def test_what_vllm_refuses_is_said_with_our_names() -> None:
    """Of the report of its configuration the complaint; see vllm_complaint."""
    limits = {"max_model_len": 100_000, "max_cache_tokens": 200_000}
    with pytest.raises(SettingError, match=r"^engine.kind: .* 'qwen2': User-specified vllm.max_model_len \(100000\)"):
        start(make_model(), **limits)


def test_a_model_that_vllm_does_not_know_is_refused_in_one_line() -> None:
    """Its own message, without its page."""
    model = make_model()
    model.config.architectures = ["NobodysForCausalLM"]
    with pytest.raises(ValueError, match="kind: vLLM cannot serve 'qwen2': .*NobodysForCausalLM") as error:
        start(model)
    assert "\n" not in str(error.value)


def test_a_model_that_vllm_refuses_only_when_it_runs_is_told_in_one_line(tmp_path) -> None:
    """Heads of 8 are more than its attention on the CPU takes, and it says so in the first forward."""
    command = [sys.executable, "-m", "treepo", "sample", str(save_tiny_model(tmp_path)), "--prompt", "7"]
    command += ["--tree.segment_len", "8", "--engine.kind", "vllm"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "treepo: engine.kind: vLLM cannot run 'qwen2': " in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_one_broken_request_loses_no_other() -> None:
    """Of two that end in one step, one with logits that are not finite: the error comes, and both are done with."""
    model = make_model()
    with torch.no_grad():
        next(model.parameters())[5, 0] = float("nan")
    engine = vllm(model)
    for i in range(2):
        engine.submit(request(np.array([5 - i, 3]), 1, name=i))
    with pytest.raises(FloatingPointError):
        engine.step()
    assert engine.num_free_slots == 256


def test_nan_spoils_nothing_that_comes_after() -> None:
    """Cached keys and values that were not finite stayed in vLLM's blocks and made good weights give NaN."""
    model = make_model()
    with torch.no_grad():
        next(model.parameters())[5] = float("nan")
    engine = vllm(model)
    every_block = [[5, 3 + i % 12, 3 + i // 12, *[5] * 120] for i in range(engine.kv_cache_tokens // 128)]
    with pytest.raises(FloatingPointError):
        run_all(engine, [request(prefix, 1) for prefix in every_block])
    engine.update_weights(make_model())
    for result in run_all(engine, [request(np.arange(3, 15), 3)] * 40):
        assert np.isfinite(result.logprobs).all()


def test_weights_that_did_not_arrive_are_found_out() -> None:
    """An engine that computes another model is off by more than rounding."""
    model, other = make_model(), make_model(seed=1)
    engine, ids = vllm(model), np.arange(3, 16).astype(np.int32)

    def score(policy: PreTrainedModel):
        return lambda ids, t: sequence_logprobs(policy, torch.from_numpy(ids).long(), t).numpy()

    for sampling in (SamplingParams(0.0), SamplingParams(1.0), SamplingParams(0.7, top_k=5, top_p=0.9)):
        assert max_logprob_diff(engine, score(model), ids, sampling) < 1e-5
        assert max_logprob_diff(engine, score(other), ids, sampling) > 1e-2
