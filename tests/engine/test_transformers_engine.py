"""The engine for models that the embedded one cannot serve."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from tests.models import make_tiny_model
from treepo.engine.base import SampleRequest, SamplingParams
from treepo.engine.torch.engine import TorchEngine
from treepo.engine.transformers import TransformersEngine

EOS = (2, 5)


def requests(count: int = 12, seed: int = 0) -> list[SampleRequest]:
    """Of three prefix lengths, in mixed order, each with its own sampling."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        prefix = rng.integers(3, 16, size=int(rng.choice([3, 4, 9])))
        sampling = SamplingParams(temperature=float(rng.choice([0.0, 0.8, 1.5])), top_k=int(rng.choice([0, 4])))
        made.append(SampleRequest(i, prefix, int(rng.integers(1, 12)), 100 + i, sampling=sampling, group=i % 3))
    return made


def decode(engine, wanted: list[SampleRequest]) -> dict[int, tuple]:
    """Results by request."""
    for request in wanted:
        engine.submit(request)
    found = {}
    while len(found) < len(wanted):
        found |= {r.request_id: (r.token_ids.tolist(), r.logprobs, r.ended) for r in engine.step()}
    return found


@pytest.mark.parametrize("max_num_seqs", [1, 3, 64])
def test_it_draws_what_the_embedded_engine_draws(max_num_seqs: int) -> None:
    """The same tokens from the same random streams, in any batch; every way to end occurs."""
    plain = TransformersEngine(make_tiny_model(attention="sdpa"), EOS, max_num_seqs)
    expected = decode(TorchEngine(make_tiny_model(), EOS), requests())
    got = decode(plain, requests())
    assert got.keys() == expected.keys()
    for key, (tokens, logprobs, ended) in expected.items():
        assert got[key][0] == tokens
        np.testing.assert_allclose(got[key][1], logprobs, atol=1e-5)
        assert got[key][2] == ended
    assert {ended for _, _, ended in expected.values()} == {True, False}
    assert plain.counters.num_decoded == sum(len(tokens) for tokens, _, _ in expected.values())


def test_recurrent_models_decode_what_one_forward_scores() -> None:
    """The log-probabilities of a Mamba are those of a forward over the whole sequence."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = MambaConfig(vocab_size=16, hidden_size=32, num_hidden_layers=2)
        model = MambaForCausalLM(config).eval()
    wanted = [replace(r, sampling=SamplingParams()) for r in requests()]
    for key, (tokens, logprobs, _) in decode(TransformersEngine(model, EOS), wanted).items():
        ids = np.concatenate([wanted[key].prefix_ids, tokens])
        with torch.no_grad():
            every = torch.log_softmax(model(torch.from_numpy(ids)[None]).logits[0], -1)
        first = len(wanted[key].prefix_ids)
        expected = every[torch.arange(first - 1, len(ids) - 1), torch.tensor(tokens)]
        np.testing.assert_allclose(logprobs, expected.numpy(), atol=1e-4)


def test_released_groups_end_without_a_result() -> None:
    engine = TransformersEngine(make_tiny_model(attention="sdpa"), EOS)
    for request in requests():
        engine.submit(request)
    engine.abort_group(1)
    engine.abort_group(2)
    found = []
    while results := engine.step():
        found += [r.request_id for r in results]
    assert sorted(found) == [0, 3, 6, 9]
    assert engine.num_free_slots == 256


def test_weights_that_are_not_finite_are_told() -> None:
    model = make_tiny_model(attention="sdpa")
    torch.nn.init.constant_(next(model.parameters()), float("nan"))
    engine = TransformersEngine(model, EOS)
    engine.submit(requests(1)[0])
    with pytest.raises(FloatingPointError, match="not finite"):
        engine.step()


def test_a_models_own_generation_settings_change_nothing() -> None:
    """A repetition penalty that a model comes with would be in the log-probabilities, unknown to the loss."""
    expected = decode(TransformersEngine(make_tiny_model(attention="sdpa"), EOS), requests())
    model = make_tiny_model(attention="sdpa")
    assert model.generation_config is not None
    model.generation_config.update(repetition_penalty=1.8, num_beams=2, do_sample=True, top_k=3, min_new_tokens=4)
    got = decode(TransformersEngine(model, EOS), requests())
    assert model.generation_config.repetition_penalty == 1.8
    for key, (tokens, logprobs, _) in expected.items():
        assert got[key][0] == tokens
        np.testing.assert_array_equal(got[key][1], logprobs)


@pytest.mark.parametrize("engine", [TransformersEngine, TorchEngine])
def test_autocast_reaches_the_engines(engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in bfloat16 over float32 weights: near the wide log-probabilities, but not the same."""
    # Elsewhere the embedded engine stays in float32.
    monkeypatch.setattr("treepo.model.linear_maps.bfloat16_instructions", lambda: "any")
    attention = "sdpa" if engine is TransformersEngine else "treepo"
    model = make_tiny_model(attention=attention, initializer_range=0.05)
    wanted = [replace(r, sampling=SamplingParams(temperature=0.0)) for r in requests(4)]
    wide = decode(engine(model, EOS), wanted)
    narrow = decode(engine(model, EOS, autocast=torch.bfloat16), wanted)
    first = [(wide[key][1][0], narrow[key][1][0]) for key in wide]
    assert all(abs(a - b) < 0.1 for a, b in first)
    assert any(a != b for a, b in first)
