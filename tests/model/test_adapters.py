"""Adapters from folders, modules that are trained whole, dropout, and bases in 4 bits."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.learn.test_update import adam_of, gradients, updater_of
from tests.model.test_lora import adapted, some_packed
from tests.models import make_tiny_model, make_tiny_tokenizer, save_tiny_model
from treepo.config.load import resolve
from treepo.errors import SettingError
from treepo.learn.settings import OptimSettings
from treepo.model.adapters import add_adapter
from treepo.model.lora import has_adapter, merged, merged_weights, without_adapter
from treepo.model.policy import Policy, load_policy
from treepo.model.settings import LoraSettings
from treepo.run.parts import build_policy

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

IDS = torch.arange(10)[None]


def randomize(model: torch.nn.Module, seed: int = 1) -> None:
    """Give everything that is trained random values."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Of a model as transformers runs it."""
    model.set_attn_implementation("sdpa")  # pyright: ignore[reportCallIssue]
    with torch.no_grad():
        return model(IDS).logits


def saved_adapter(tmp_path: Path, kind: str = "llama", **settings: object) -> tuple[Policy, Path]:
    """(a policy with random adapters, the folder that they were saved in); the base is in base/."""
    policy = load_policy(str(save_tiny_model(tmp_path / "base", kind)))
    add_adapter(policy.model, LoraSettings(rank=2, **settings), seed=0)  # pyright: ignore[reportArgumentType]
    randomize(policy.model)
    policy.save_adapter(tmp_path / "adapter")
    return policy, tmp_path / "adapter"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, into which repositories are put."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put_on_hub(hub: Path, name: str, folder: Path) -> None:
    """As the hub's client keeps what it has downloaded."""
    repository = hub / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    folder.rename(repository / "blobs")
    (snapshot := repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    for file in (repository / "blobs").iterdir():
        (snapshot / file.name).symlink_to(file)


def test_an_adapter_is_named_as_on_the_hub(tmp_path: Path, hub: Path) -> None:
    """Only folders with adapters were taken: a name was looked for as that of a whole model."""
    trained, folder = saved_adapter(tmp_path)
    put_on_hub(hub, "org/adapter", folder)
    policy = load_policy("org/adapter")
    assert torch.equal(logits(policy.model), logits(merged(trained.model)))
    begun = load_policy(str(tmp_path / "base"))
    add_adapter(begun.model, LoraSettings(path="org/adapter"), seed=0)
    assert torch.equal(logits(begun.model), logits(trained.model))


def test_a_pickled_adapter_on_the_hub_is_refused(tmp_path: Path, hub: Path) -> None:
    _, folder = saved_adapter(tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    put_on_hub(hub, "org/pickled", folder)
    with pytest.raises(SettingError, match=r"model.path: no adapter_model.safetensors"):
        load_policy("org/pickled")


def with_peft(folder: Path) -> torch.nn.Module:
    from peft import PeftModel

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder.parent / "base"), str(folder))


class TestDropout:
    def test_updates_drop_inputs_of_adapters_and_nothing_else_does(self) -> None:
        """The gradients of an update differ from those without dropout; what is scored for old and reference not."""
        plain, model = adapted(), adapted(dropout=0.5)
        scores = [updater_of(one).scorer.logprobs(some_packed(), 10**6) for one in (plain, model)]
        assert all(np.array_equal(a, b) for a, b in zip(*scores, strict=True))
        updater_of(plain).update(some_packed())
        updater_of(model).update(some_packed())
        one, other = gradients(plain), gradients(model)
        name = "model.layers.0.mlp.gate_proj.lora_A.default.weight"
        assert not torch.allclose(one[name], other[name])
        assert not model.training and not any(m.training for m in model.modules())

    def test_an_update_without_any_input_is_one_of_the_base(self) -> None:
        """Entropies of an update whose adapters get no input are those of the model below them."""
        dropped = updater_of(adapted(dropout=1 - 1e-9)).update(some_packed())
        base = updater_of(make_tiny_model(dtype=torch.float64)).update(some_packed())
        kept = updater_of(adapted()).update(some_packed())
        assert dropped["update/entropy"] == pytest.approx(base["update/entropy"], rel=1e-9)
        assert abs(kept["update/entropy"] - base["update/entropy"]) > 1e-3


WHOLE: dict[str, Any] = {"targets": ("q_proj",), "modules_to_save": ("lm_head", "norm")}


class TestModulesToSave:
    def test_they_are_trained_whole(self) -> None:
        model = make_tiny_model("llama")
        add_adapter(model, LoraSettings(rank=2, **WHOLE), 0)
        before = {n: p.clone() for n, p in model.named_parameters()}
        adam_of(model, OptimSettings(lr=0.1, warmup_steps=0)).update(some_packed())
        moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        assert moved == {n for n in before if "lora_" in n or ".modules_to_save." in n}
        assert "lm_head.modules_to_save.default.weight" in moved

    def test_saved_ones_are_those_of_peft(self, tmp_path: Path) -> None:
        """The merged model, its weights one by one, and peft with the adapter's folder compute the same."""
        policy, folder = saved_adapter(tmp_path, **WHOLE)
        policy.save(tmp_path / "model")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        expected = logits(policy.model)
        torch.testing.assert_close(logits(plain), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits(with_peft(folder).base_model.model), expected, rtol=1e-5, atol=1e-5)
        one_by_one = dict(merged_weights(policy.model))
        assert one_by_one.keys() == plain.state_dict().keys()
        for name, tensor in merged(policy.model).state_dict().items():
            torch.testing.assert_close(one_by_one[name], tensor, rtol=1e-6, atol=1e-6)

    def test_the_reference_has_the_original_ones(self) -> None:
        model = make_tiny_model("llama", attention="sdpa")
        expected = logits(model)
        add_adapter(model, LoraSettings(rank=2, **WHOLE), 0)
        randomize(model)
        assert not torch.allclose(logits(model), expected)
        with without_adapter(model):
            assert torch.equal(logits(model), expected)

    def test_tied_embeddings_are_refused(self) -> None:
        with pytest.raises(SettingError, match=r"^lora\.modules_to_save: 'lm_head' shares its weights"):
            add_adapter(make_tiny_model("qwen2"), LoraSettings(rank=2, **WHOLE), 0)

    def test_names_that_no_module_has_are_told(self) -> None:
        with pytest.raises(SettingError, match=r"^lora\.modules_to_save: the model has no module 'nonsense'"):
            add_adapter(make_tiny_model(), LoraSettings(rank=2, modules_to_save=("nonsense",)), 0)


class TestFolders:
    @pytest.mark.parametrize(
        "settings", [{}, {"alpha": 3.0, "targets": ("q_proj", "up_proj"), "modules_to_save": ("norm",)}], ids=str
    )
    def test_an_adapter_goes_on_as_it_was_saved(self, tmp_path: Path, settings: dict) -> None:
        policy, folder = saved_adapter(tmp_path, **settings)
        again = load_policy(str(tmp_path / "base"))
        add_adapter(again.model, LoraSettings(path=str(folder)), seed=5)
        expected = dict(policy.model.named_parameters())
        found = dict(again.model.named_parameters())
        assert found.keys() == expected.keys()
        assert all(torch.equal(p, expected[name]) for name, p in found.items())
        assert [p.requires_grad for p in found.values()] == [p.requires_grad for p in expected.values()]
        assert torch.equal(logits(again.model), logits(policy.model))

    def test_one_that_peft_made_loads(self, tmp_path: Path) -> None:
        """With ranks and scales of single modules, and a pattern for the modules' names."""
        from peft import LoraConfig, get_peft_model

        save_tiny_model(tmp_path / "base", "llama")
        config = LoraConfig(
            r=4,
            lora_alpha=3,
            use_rslora=True,
            target_modules=r".*\.(q|up)_proj",
            rank_pattern={"up_proj": 2},
            alpha_pattern={"up_proj": 5},
        )
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), config)
        randomize(model)
        model.save_pretrained(tmp_path / "adapter")
        policy = load_policy(str(tmp_path / "adapter"))
        assert not has_adapter(policy.model)
        torch.testing.assert_close(logits(policy.model), logits(model.base_model.model), rtol=1e-5, atol=1e-5)

    def test_a_folder_with_an_adapter_is_a_model(self, tmp_path: Path) -> None:
        """Its base with the adapter added, all of whose weights can be trained, with the base's tokenizer."""
        policy, folder = saved_adapter(tmp_path)
        again = load_policy(str(folder))
        assert not has_adapter(again.model) and all(p.requires_grad for p in again.model.parameters())
        torch.testing.assert_close(logits(again.model), logits(policy.model), rtol=1e-5, atol=1e-5)
        assert again.tokenizer.get_vocab() == policy.tokenizer.get_vocab()
        again.save(tmp_path / "whole")
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
        torch.testing.assert_close(logits(whole), logits(policy.model), rtol=1e-5, atol=1e-5)

    def test_a_run_starts_from_one(self, tmp_path: Path) -> None:
        _, folder = saved_adapter(tmp_path)
        config = resolve({"model": {"path": str(tmp_path / "base")}, "lora": {"path": str(folder)}})
        assert config.lora.is_given
        built = build_policy(config, lambda *_: None)
        expected = load_file(folder / "adapter_model.safetensors")
        name = "model.layers.0.self_attn.q_proj.lora_B"
        found = dict(built.model.named_parameters())[f"{name}.default.weight"]
        assert torch.equal(found, expected[f"base_model.model.{name}.weight"])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"peft_type": "IA3"}, "only LORA is supported"),
            ({"use_dora": True}, "use_dora is not supported"),
            ({"bias": "all"}, "only 'none' is supported"),
            ({"r": 10**9}, "ranks must be within"),
            ({"r": "many"}, "valid integer"),
            ({"rank_pattern": {"(a+)+$": 3}}, "is no name of a module"),
            ({"target_modules": ["nonsense"]}, "nonsense"),
            ({"target_modules": ["q_proj"]}, "has a 'model.layers.0"),
            ({"r": 3}, r"is \[2, 32\] in .*, \[3, 32\] in the model"),
        ],
        ids=str,
    )
    def test_what_does_not_fit_is_refused(self, tmp_path: Path, changes: dict, message: str) -> None:
        _, folder = saved_adapter(tmp_path)
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        with pytest.raises(SettingError, match=rf"(?s)^lora\.path: .*{message}"):
            add_adapter(load_policy(str(tmp_path / "base")).model, LoraSettings(path=str(folder)), 0)
        with pytest.raises(SettingError, match=rf"(?s)^model\.path: .*{message}"):
            load_policy(str(folder))

    def test_a_module_is_not_imported_because_a_file_names_it(self, tmp_path: Path) -> None:
        """peft imports what `megatron_core` of an adapter's file names."""
        _, folder = saved_adapter(tmp_path)
        (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
        path = folder / "adapter_config.json"
        evil = {"megatron_config": {"a": 1}, "megatron_core": "evil", "auto_mapping": {"base_model_class": "x"}}
        path.write_text(json.dumps(json.loads(path.read_text()) | evil))
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(tmp_path)
            load_policy(str(folder))

    def test_weights_that_are_missing_are_told(self, tmp_path: Path) -> None:
        _, folder = saved_adapter(tmp_path)
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        with pytest.raises(SettingError, match=r"^model\.path: no adapter_model.safetensors"):
            load_policy(str(folder))
        with pytest.raises(SettingError, match=r"^lora\.path: cannot read the adapter .*no adapter_model.safetensors"):
            add_adapter(make_tiny_model(), LoraSettings(path=str(folder)), 0)
        save_file({}, folder / "adapter_model.safetensors")
        with pytest.raises(SettingError, match=r"^lora\.path: "):
            add_adapter(make_tiny_model(), LoraSettings(path=str(folder)), 0)

    def test_a_base_that_is_gone_is_named(self, tmp_path: Path) -> None:
        _, folder = saved_adapter(tmp_path)
        (tmp_path / "base").rename(tmp_path / "elsewhere")
        with pytest.raises(SettingError, match=r"^model\.path: the adapter in .*adapter' is for .*base': no folder"):
            load_policy(str(folder))

    @pytest.mark.parametrize("name", ["rank", "alpha", "targets", "modules_to_save"])
    def test_its_own_settings_are_not_given_twice(self, name: str) -> None:
        value = {"rank": 3, "alpha": 3.0, "targets": ("q_proj",), "modules_to_save": ("norm",)}[name]
        with pytest.raises(SettingError, match=f"^{name}: is that of the adapter in lora.path"):
            LoraSettings(path="a", **{name: value})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("wrong", [{"dropout": 0.1}, {"modules_to_save": ("norm",)}, {"load_in_4bit": True}], ids=str)
def test_settings_of_adapters_need_adapters(wrong: dict) -> None:
    with pytest.raises(SettingError, match=f"^{next(iter(wrong))}: needs adapters"):
        LoraSettings(**wrong)


def test_an_own_tokenizer_is_used_and_saved(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base")
    tokenizer = make_tiny_tokenizer(chat=True)
    tokenizer.chat_template = "mine {{ messages[0]['content'] }}"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    policy = load_policy(str(base), tokenizer=str(tmp_path / "tokenizer"))
    assert policy.tokenizer.chat_template == tokenizer.chat_template
    policy.save(tmp_path / "again")
    assert load_policy(str(tmp_path / "again")).tokenizer.chat_template == tokenizer.chat_template
    with pytest.raises(SettingError, match=r"^model\.tokenizer: no tokenizer in"):
        load_policy(str(base), tokenizer=str(tmp_path))


class TestFourBits:
    def test_bitsandbytes_that_is_missing_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("treepo.model.quantization.find_spec", lambda name: None)
        with pytest.raises(SettingError, match=r"^lora\.load_in_4bit: 4-bit weights need bitsandbytes.*pip install"):
            load_policy(str(save_tiny_model(tmp_path / "base")), load_in_4bit=True)

    @pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
    def test_adapters_are_trained_on_a_base_in_4_bits(self, tmp_path: Path) -> None:
        """Gradients are those of the merged model. Saved, it is an ordinary one, with no 4-bit weights left."""
        # Blocks of 64 weights have a scale in common.
        base = save_tiny_model(tmp_path / "base", "llama", hidden_size=64, intermediate_size=128)
        policy = load_policy(str(base), load_in_4bit=True)
        weight = policy.model.get_submodule("model.layers.0.mlp.up_proj").weight
        assert weight.dtype == torch.uint8
        add_adapter(policy.model, LoraSettings(rank=2, targets=("q_proj", "down_proj")), seed=0)
        before = weight.clone()
        randomize(policy.model)
        dense = merged(policy.model).requires_grad_(True)
        for model in (policy.model, dense):
            updater_of(model).update(some_packed())
        name = "model.layers.0.self_attn.q_proj"
        layer = policy.model.get_submodule(name)
        expected = 16.0 * dense.get_submodule(name).weight.grad @ layer.lora_A["default"].weight.T
        torch.testing.assert_close(layer.lora_B["default"].weight.grad, expected, rtol=1e-3, atol=1e-5)
        adam_of(policy.model, OptimSettings(lr=0.1, warmup_steps=0)).update(some_packed())
        assert torch.equal(weight, before)
        expected = logits(policy.model)
        policy.save(tmp_path / "model")
        policy.save_adapter(tmp_path / "adapter")
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert not hasattr(whole.config, "quantization_config")
        torch.testing.assert_close(logits(whole), expected, rtol=1e-4, atol=1e-4)
        one_by_one = dict(merged_weights(policy.model))
        assert one_by_one.keys() == whole.state_dict().keys()
        for name, tensor in whole.state_dict().items():
            torch.testing.assert_close(one_by_one[name], tensor, rtol=1e-5, atol=1e-6)
        with pytest.raises(SettingError, match=r"^lora\.load_in_4bit: .*use lora.path"):
            load_policy(str(tmp_path / "adapter"), load_in_4bit=True)
