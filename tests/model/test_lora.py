"""Adapters: what is trained, what is saved, and what the engine samples from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.learn.reference import random_advantages, random_trees
from tests.learn.test_update import adam_of, gradients, largest_difference, updater_of
from tests.models import make_tiny_model, save_tiny_model
from treepo.engine.base import SampleRequest
from treepo.engine.torch.engine import TorchEngine
from treepo.learn.losses import Penalties
from treepo.learn.packing import PackedTree, pack
from treepo.learn.settings import OptimSettings
from treepo.model.adapters import add_adapter
from treepo.model.lora import has_adapter, merged
from treepo.model.policy import Policy, load_policy
from treepo.model.settings import LoraSettings

pytest.importorskip("peft")


def adapted(seed: int = 0, **settings):
    """A tiny model with adapters that already change something."""
    model = make_tiny_model(dtype=torch.float64)
    add_adapter(model, LoraSettings(rank=3, **settings), seed)
    model.to(torch.float64)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model


def some_packed() -> list[PackedTree]:
    trees = random_trees(make_tiny_model(attention="sdpa"), 0, 3)
    return [pack(t, a) for t, a in zip(trees, random_advantages(trees, 0), strict=True)]


def test_fresh_adapters_change_nothing_and_are_the_same_for_a_seed() -> None:
    """Until the first update the policy is the model that was loaded; weights do not depend on what ran before."""
    plain, model = make_tiny_model(), make_tiny_model()
    torch.rand(3)
    add_adapter(model, LoraSettings(rank=2), seed=7)
    first = next(p for n, p in model.named_parameters() if "lora_A" in n).clone()
    updater = updater_of(model)
    updater.update(some_packed())
    expected = updater_of(plain).scorer.logprobs(some_packed(), 10**6)
    for one, other in zip(updater.scorer.logprobs(some_packed(), 10**6), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    again = make_tiny_model()
    add_adapter(again, LoraSettings(rank=2), seed=7)
    torch.testing.assert_close(next(p for n, p in again.named_parameters() if "lora_A" in n), first, rtol=0, atol=0)
    assert not model.training


def test_only_adapters_are_trained() -> None:
    """An update moves them and leaves everything else bit by bit."""
    model = adapted()
    before = {n: p.clone() for n, p in model.named_parameters()}
    adam_of(model, OptimSettings(lr=0.1, warmup_steps=0)).update(some_packed())
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if "lora_" in n}


def test_gradients_are_those_of_the_merged_weights() -> None:
    """By the chain rule: for y = (W + s B A) x, the gradient of B is s times that of the merged weight times A^T."""
    model = adapted(alpha=6.0)
    whole = merged(model)
    for parameter in whole.parameters():
        parameter.requires_grad_()
    updater_of(model).update(some_packed())
    updater_of(whole).update(some_packed())
    name = "model.layers.0.mlp.gate_proj"
    layer = model.get_submodule(name)
    merged_weight = whole.get_submodule(name).weight
    expected = 2.0 * merged_weight.grad @ layer.lora_A["default"].weight.T
    torch.testing.assert_close(layer.lora_B["default"].weight.grad, expected, rtol=1e-9, atol=1e-12)


def test_the_reference_is_the_policy_without_its_adapter() -> None:
    """The same penalty as with a frozen copy of the model before training, and the adapter is on again afterwards."""
    penalties = Penalties(kl_coef=0.5)
    results = []
    for is_copy in (False, True):
        model = adapted()
        frozen = make_tiny_model(dtype=torch.float64).requires_grad_(False) if is_copy else model
        updater = replace(updater_of(model, penalties=penalties), reference=frozen)
        metrics = updater.update(updater.prepare(some_packed()))
        results.append((metrics, gradients(model)))
    assert results[0][0]["update/kl_reference"] > 1e-3
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert largest_difference(results[0][1], results[1][1]) < 1e-6


def test_the_engine_samples_from_the_adapted_policy() -> None:
    """Not from the weights below the adapters: its log-probabilities are the trainer's."""
    model = adapted()
    engine = TorchEngine(model, ())
    engine.submit(SampleRequest(0, np.array([3, 4, 5]), 6, seed=1))
    results = []
    while not results:
        results = engine.step()
    ids = np.concatenate([[3, 4, 5], results[0].token_ids])
    whole = merged(model)
    whole.set_attn_implementation("sdpa")
    with torch.no_grad():
        logits = whole(torch.from_numpy(ids)[None]).logits[0, 2:-1]
    expected = torch.log_softmax(logits, -1)[torch.arange(6), torch.from_numpy(ids[3:])]
    np.testing.assert_allclose(results[0].logprobs, expected.numpy(), atol=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_what_is_saved_loads_without_peft_and_with_it(tmp_path: Path) -> None:
    """model/ holds plain weights with the adapters added; adapter/ holds the adapters alone. Saving changes nothing."""
    from peft import PeftModel

    base = save_tiny_model(tmp_path / "base")
    policy = load_policy(str(base))
    add_adapter(policy.model, LoraSettings(rank=2, targets=("q_proj", "down_proj")), seed=0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    policy.save(tmp_path / "model")
    policy.save_adapter(tmp_path / "adapter")
    assert has_adapter(policy.model)
    assert sorted(p.name for p in (tmp_path / "adapter").glob("*.safetensors")) == ["adapter_model.safetensors"]
    again = load_policy(str(tmp_path / "model"))
    assert not has_adapter(again.model)
    with_peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "adapter"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.arange(10)[None]
    with torch.no_grad():
        torch.testing.assert_close(with_peft(ids).logits, plain(ids).logits, rtol=1e-5, atol=1e-5)
        assert (plain(ids).logits - AutoModelForCausalLM.from_pretrained(base)(ids).logits).abs().max() > 1e-3


def test_names_that_no_layer_has_are_told() -> None:
    with pytest.raises(ValueError, match="^lora.targets: .*nonsense"):
        add_adapter(make_tiny_model(), LoraSettings(rank=2, targets=("nonsense",)), 0)


@pytest.mark.parametrize(("name", "place"), [("lm_head", "output"), ("embed_tokens", "input")])
def test_adapters_on_the_embeddings_are_refused(name: str, place: str) -> None:
    """The engine would have sampled without them, and merging would have changed tied input embeddings too."""
    with pytest.raises(ValueError, match=f"^lora.targets: adapters on the {place} embeddings"):
        add_adapter(make_tiny_model("llama"), LoraSettings(rank=2, targets=(name,)), 0)


def test_peft_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treepo.model.adapters.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^lora.rank: adapters need peft.*treepo\[lora\]"):
        add_adapter(make_tiny_model(), LoraSettings(rank=2), 0)


@pytest.mark.parametrize("wrong", [{"rank": -1}, {"alpha": 0.0}])
def test_impossible_settings_are_named(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: must"):
        LoraSettings(**wrong)


def test_a_target_that_is_not_there_is_named() -> None:
    """peft passes over it where another one is there, and it got no adapter without a word."""
    with pytest.raises(ValueError, match=r"^lora.targets: no linear map of the model has this name, got 'nothing'"):
        add_adapter(make_tiny_model(), LoraSettings(rank=2, targets=("q_proj", "nothing")), 0)
    with pytest.raises(ValueError, match="^targets: needs adapters"):
        LoraSettings(targets=("q_proj",))


def test_a_policy_without_adapters_saves_as_before(tmp_path: Path) -> None:
    policy: Policy = load_policy(str(save_tiny_model(tmp_path / "base")))
    policy.save(tmp_path / "again")
    assert load_policy(str(tmp_path / "again")).model.num_parameters() == policy.model.num_parameters()
