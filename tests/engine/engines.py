"""Every engine, made for a tiny model of any kind: what one test says of an engine must hold of all."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from tests.learn.reference import all_logprobs
from tests.models import make_tiny_model
from treepo.engine.base import Engine, SampleRequest, SampleResult, SamplingParams
from treepo.engine.sampling import uniforms
from treepo.engine.settings import EngineSettings, VllmSettings
from treepo.engine.torch.engine import TorchEngine
from treepo.engine.transformers import TransformersEngine
from treepo.engine.vllm.engine import RequestGenerators, VllmEngine
from treepo.engine.vllm.start import start_vllm

MakeEngine = Callable[..., Engine]

SIZES: dict[str, Any] = {"hidden_size": 128, "initializer_range": 0.1}
"""vLLM's attention on the CPU takes heads of 32 and more."""

HEADED = {"qwen3", "gemma", "gemma3"}
"""Kinds whose heads have a size of their own."""


def make_model(kind: str = "qwen2", **settings: Any) -> PreTrainedModel:
    """A tiny model that every engine serves."""
    own = SIZES | ({"head_dim": 32} if kind in HEADED else {})
    return make_tiny_model(kind, **(own | settings))


def embedded(model: PreTrainedModel, eos_ids: Sequence[int] = (), max_num_seqs: int = 256) -> Engine:
    """The engine over the model itself."""
    return TorchEngine(model, eos_ids, max_num_seqs)


def plain(model: PreTrainedModel, eos_ids: Sequence[int] = (), max_num_seqs: int = 256) -> Engine:
    """transformers' generate, over a model with its own attention."""
    model.set_attn_implementation("sdpa")
    return TransformersEngine(model, eos_ids, max_num_seqs)


@cache
def _core(kind: str, dtype: torch.dtype, max_num_seqs: int) -> tuple[Any, RequestGenerators]:
    """One vLLM of each sort for the whole session: when one of several ends, the others break."""
    generators = RequestGenerators()
    limits = EngineSettings(max_num_seqs=max_num_seqs, max_num_batched_tokens=512, max_cache_tokens=8192)
    settings = VllmSettings(max_model_len=512)
    return start_vllm(settings, limits, make_model(kind, dtype=dtype), generators), generators


def vllm(model: PreTrainedModel, eos_ids: Sequence[int] = (), max_num_seqs: int = 256) -> Engine:
    """vLLM in this process."""
    core, generators = _core(_kind_of(model), model.dtype, max_num_seqs)
    engine = VllmEngine(core, generators, eos_ids)
    engine.update_weights(model)
    return engine


def _kind_of(model: PreTrainedModel) -> str:
    return {"gemma3_text": "gemma3"}.get(model.config.model_type, model.config.model_type)


needs_vllm = pytest.mark.vllm
"""Skipped by tests/conftest.py where vLLM is not installed."""

ENGINES = [embedded, plain, pytest.param(vllm, marks=needs_vllm)]


def request(
    prefix: Sequence[int] | np.ndarray, length: int = 12, seed: int = 0, temperature: float = 1.0, name: int = 0
) -> SampleRequest:
    """A request with defaults."""
    return SampleRequest(name, np.array(prefix, np.int32), length, seed, SamplingParams(temperature))


def run_all(engine: Engine, requests: Sequence[SampleRequest]) -> list[SampleResult]:
    """Results in the order of the requests, which get ids of their own."""
    for i, r in enumerate(requests):
        engine.submit(replace(r, request_id=i))
    results: dict[int, SampleResult] = {}
    while len(results) < len(requests):
        for result in engine.step():
            assert result.request_id not in results
            results[result.request_id] = result
    assert engine.step() == []
    return [results[i] for i in range(len(requests))]


def tokens_of(results: Sequence[SampleResult]) -> list[list[int]]:
    """The decoded ids alone."""
    return [r.token_ids.tolist() for r in results]


def naive(model: PreTrainedModel, r: SampleRequest, eos_ids: Sequence[int]) -> tuple[list[int], list[float], bool]:
    """(ids, log-probabilities, ended) by a whole forward of the plain model for every token, in numpy."""
    ids, logprobs = r.prefix_ids.tolist(), []
    for _ in range(r.max_new_tokens):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double().numpy()
        known, penalty = np.unique(ids), r.sampling.repetition_penalty
        logits[known] = np.where(logits[known] < 0, logits[known] * penalty, logits[known] / penalty)
        scaled = logits / (r.sampling.temperature or 1.0)
        every = scaled - scaled.max()
        every -= np.log(np.exp(every).sum())
        number = uniforms(np.array([r.seed], np.uint64), np.array([len(ids)]))[0]
        sums = np.exp(every).cumsum()
        token = (
            int(every.argmax())
            if r.sampling.temperature == 0
            else int(np.searchsorted(sums, number * sums[-1], "right"))
        )
        ids.append(token)
        logprobs.append(float(every[token]))
        if token in eos_ids:
            return ids[len(r.prefix_ids) :], logprobs, True
    return ids[len(r.prefix_ids) :], logprobs, False


def assert_scored(
    reference: PreTrainedModel, prefix: np.ndarray, result: SampleResult, temperature: float = 1.0, atol: float = 1e-5
) -> None:
    """Its log-probabilities are those of one whole forward of the plain model."""
    ids = np.concatenate([prefix, result.token_ids])
    with torch.no_grad():
        every = all_logprobs(reference, ids.tolist(), temperature).numpy()
    expected = every[np.arange(len(prefix) - 1, len(ids) - 1), result.token_ids]
    np.testing.assert_allclose(result.logprobs, expected, rtol=0, atol=atol)
