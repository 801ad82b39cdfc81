"""Loading and saving a policy, and what its tokenizer does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    PreTrainedModel,
)

from tests.models import KINDS, SIZES, make_tiny_model, make_tiny_tokenizer, save_tiny_model
from treepo.model.attention import ATTENTION_NAME, TreeAttention
from treepo.model.policy import Policy, load_policy

IDS = [5, 17, 60, 33, 8, 90, 41]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as one downloads it; not to be changed."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", chat=True)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may break."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def plain_logits(model: PreTrainedModel) -> torch.Tensor:
    """Logits of one sequence by a model as transformers runs it."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0]


def policy_logits(policy: Policy) -> torch.Tensor:
    """Logits of the same sequence by a policy."""
    positions = torch.arange(len(IDS))
    context = TreeAttention([0, len(IDS)], torch.full_like(positions, len(IDS)), positions)
    with torch.no_grad():
        return policy.model(
            input_ids=torch.tensor([IDS]), position_ids=positions[None], use_cache=False, attention_context=context
        ).logits[0]


def edit(path: Path, **changes: object) -> None:
    """Change entries of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_policy_is_what_any_program_loads(kind: str, tmp_path: Path) -> None:
    """Downloaded, loaded, changed, saved and loaded by transformers alone: the same logits, tokens and template."""
    original = save_tiny_model(tmp_path / "original", kind, chat=True)
    policy = load_policy(str(original))
    before = policy_logits(policy)
    torch.testing.assert_close(before, plain_logits(AutoModelForCausalLM.from_pretrained(original)))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    policy.save(tmp_path / "trained")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "trained")
    torch.testing.assert_close(plain_logits(model), policy_logits(policy))
    assert (plain_logits(model) - before).abs().max() > 0.1
    for name, parameter in policy.model.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, rtol=0, atol=0)
    text = "1+2 = (3) ."
    assert tokenizer.encode(text) == policy.tokenizer.encode(text)
    assert tokenizer.chat_template == policy.tokenizer.chat_template
    assert model.generation_config.eos_token_id == policy.model.generation_config.eos_token_id


def test_nothing_of_treepo_stays_in_a_saved_folder(saved: Path, tmp_path: Path) -> None:
    """The configuration does not ask for an attention that only treepo has, and the weights are safetensors."""
    policy = load_policy(str(saved))
    assert policy.model.config._attn_implementation == ATTENTION_NAME
    policy.save(tmp_path / "out")
    for name in ("config.json", "generation_config.json"):
        assert ATTENTION_NAME not in (tmp_path / "out" / name).read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config._attn_implementation == "sdpa"
    assert [p.name for p in (tmp_path / "out").glob("*.safetensors")] == ["model.safetensors"]
    assert not [*(tmp_path / "out").glob("*.bin"), *(tmp_path / "out").glob("*.py")]


def test_a_policy_can_be_loaded_again(saved: Path, tmp_path: Path) -> None:
    """Through any number of loads and saves, also onto the same folder, the logits stay."""
    policy = load_policy(str(saved))
    expected = policy_logits(policy)
    for _ in range(3):
        policy.save(tmp_path / "again")
        policy = load_policy(str(tmp_path / "again"))
        torch.testing.assert_close(policy_logits(policy), expected, rtol=0, atol=0)


def test_dtype_and_mode(saved: Path) -> None:
    """The weights come in the dtype asked for, and the model does not drop out."""
    for dtype in ("float32", "bfloat16"):
        policy = load_policy(str(saved), dtype=dtype)
        assert {p.dtype for p in policy.model.parameters()} == {getattr(torch, dtype)}
        assert not policy.model.training


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({"eos_token_id": 7}, (2, 7)),
        ({"eos_token_id": 2}, (2,)),
        ({"eos_token_id": [9, 2, 7]}, (2, 7, 9)),
        ({"eos_token_id": None}, (2,)),
        ({"eos_token_id": [10**6, 7, -1]}, (2, 7)),
    ],
    ids=str,
)
def test_every_token_that_ends_a_response_is_known(
    folder: Path, generation: dict[str, Any], expected: tuple[int, ...]
) -> None:
    """One id, a list or none in the generation settings, together with the tokenizer's own. One that the model has no
    embedding for ends nothing: it kept quiet that a model could not end its answers."""
    edit(folder / "generation_config.json", **generation)
    edit(folder / "config.json", eos_token_id=None)
    assert load_policy(str(folder)).eos_ids == expected


def test_end_tokens_without_generation_settings(folder: Path) -> None:
    """A folder without them takes the configuration's, which may be a list too."""
    (folder / "generation_config.json").unlink()
    edit(folder / "config.json", eos_token_id=[2, 11])
    assert load_policy(str(folder)).eos_ids == (2, 11)


def test_end_tokens_may_be_missing_altogether() -> None:
    """A model that never ends by itself has none; that is not an error, and 0 would not be missing."""
    tokenizer = make_tiny_tokenizer()
    tokenizer.eos_token = None
    model = make_tiny_model(vocab_size=len(tokenizer), eos_token_id=None)
    assert Policy(model, tokenizer).eos_ids == ()
    assert model.generation_config is not None
    model.generation_config.eos_token_id = 0
    assert Policy(model, tokenizer).eos_ids == (0,)


def test_max_len_is_the_models(saved: Path) -> None:
    """From the configuration."""
    assert load_policy(str(saved)).max_len == SIZES["max_position_embeddings"]


def test_decoding_leaves_out_special_tokens_and_nothing_else(saved: Path) -> None:
    """Spaces before punctuation stay: cleaning them up would change answers."""
    policy = load_policy(str(saved))
    text = "a , b . don 't !"
    assert policy.decode([1, *policy.tokenizer.encode(text), 2]) == text
    assert policy.decode([]) == ""


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """And nothing is looked up on the network for something that is written as a path."""
    for path in (str(tmp_path / "nope"), "./nope", "~/nope", "some/folder/nope"):
        with pytest.raises(ValueError, match=r"model.path: no folder") as caught:
            load_policy(path)
        assert path in str(caught.value)


def test_a_name_the_hub_does_not_know_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line of what transformers says is enough."""

    def refuse(path: str, **_: object) -> None:
        raise OSError(f"{path} is not a local folder\nand a long story")

    monkeypatch.setattr("treepo.model.policy.AutoConfig.from_pretrained", refuse)
    with pytest.raises(ValueError, match=r"model.path: cannot load 'org/nope'") as caught:
        load_policy("org/nope")
    assert "\n" not in str(caught.value)


def remove(*patterns: str) -> Callable[[Path], None]:
    """A way to break a folder."""

    def broken(folder: Path) -> None:
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()

    return broken


def pickled(folder: Path) -> None:
    """The weights as torch pickles them."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def truncated(folder: Path) -> None:
    """A download that was broken off."""
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def one_layer_more(folder: Path) -> None:
    """A configuration that speaks of a layer that has no weights."""
    edit(folder / "config.json", num_hidden_layers=3, layer_types=["full_attention"] * 3)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (remove("*"), "no config.json in"),
        (remove("config.json"), "no config.json in"),
        (remove("tokenizer*"), "no tokenizer in"),
        (remove("*.safetensors"), "no safetensors weights in"),
        (pickled, "no safetensors weights in"),
        (truncated, "cannot load"),
        (lambda folder: edit(folder / "config.json", intermediate_size=99), "cannot load"),
        (one_layer_more, "cannot load"),
        (lambda folder: (folder / "config.json").write_text("nonsense"), "cannot load"),
        (lambda folder: edit(folder / "config.json", model_type="nope"), "cannot load"),
        (lambda folder: (folder / "tokenizer.json").write_text("nonsense"), "cannot load"),
    ],
    ids=[
        "empty",
        "no config",
        "no tokenizer",
        "no weights",
        "pickle",
        "truncated",
        "other sizes",
        "missing layer",
        "config is not JSON",
        "unknown type",
        "tokenizer is not JSON",
    ],
)
def test_a_folder_that_cannot_be_loaded_is_named(
    folder: Path, break_it: Callable[[Path], object], message: str
) -> None:
    """One line with the setting and the folder, never a model of random weights."""
    break_it(folder)
    with pytest.raises(ValueError, match=f"^model.path: {message}") as caught:
        load_policy(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_not_read_beside_safetensors(folder: Path) -> None:
    """A pickle may run code; it is ignored where there are safetensors."""
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    load_policy(str(folder))


def with_code(folder: Path, marker: Path) -> None:
    """Let the folder bring its own configuration class, which leaves a mark when it is run."""
    (folder / "own.py").write_text(
        "from pathlib import Path\n"
        "from transformers import Qwen2Config\n"
        f"Path({str(marker)!r}).touch()\n"
        "class OwnConfig(Qwen2Config):\n"
        "    model_type = 'own'\n"
    )
    edit(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})


def test_code_in_a_folder_is_not_run_unless_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default it is refused; with trust_remote_code it runs, so this test sees what it looks for."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    marker = tmp_path / "was-run"
    with_code(folder, marker)
    with pytest.raises(ValueError, match=r"model.path: cannot load"):
        load_policy(str(folder))
    assert not marker.exists()
    # There is no model class for it, so loading fails later, after its code was run.
    with pytest.raises(ValueError, match=r"model.path"):
        load_policy(str(folder), trust_remote_code=True)
    assert marker.exists()


def test_an_unknown_device_is_named(saved: Path) -> None:
    """Before anything is loaded."""
    with pytest.raises(ValueError, match=r"model.device: cannot use 'nonsense'"):
        load_policy(str(saved), device="nonsense")


def save_other(folder: Path, model: PreTrainedModel) -> str:
    """A folder of a model that is not served."""
    model.save_pretrained(folder)
    make_tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def test_models_that_cannot_be_served_are_refused_when_loaded(tmp_path: Path) -> None:
    """Soft-capped attention, and models that would never call treepo's attention and mix trajectories unnoticed."""
    gemma2 = save_other(tmp_path / "gemma2", Gemma2ForCausalLM(Gemma2Config(vocab_size=99, head_dim=8, **SIZES)))
    with pytest.raises(ValueError, match="'gemma2' has attention with attn_logit_softcapping"):
        load_policy(gemma2)
    settings: dict[str, Any] = {"vocab_size": 99, "hidden_size": 32, "n_layer": 1, "n_head": 2}
    bloom = save_other(tmp_path / "bloom", BloomForCausalLM(BloomConfig(**settings)))
    with pytest.raises(ValueError, match="'bloom' has its own attention"):
        load_policy(bloom)


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_a_model_that_is_not_packed_has_the_attention_that_is_named(tmp_path: Path, name: str) -> None:
    """One that is packed keeps ours, whatever is named."""
    folder = str(save_tiny_model(tmp_path / "model"))
    policy = load_policy(folder, packable=False, attn_implementation=name)
    assert policy.model.config._attn_implementation == name
    assert load_policy(folder, attn_implementation=name).model.config._attn_implementation == "treepo"


def test_a_revision_is_asked_for_with_every_part_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, configuration and tokenizer; not with a tokenizer that comes from elsewhere."""
    folder = str(save_tiny_model(tmp_path / "model"))
    asked: dict[str, object] = {}

    def spy(name: str, owner: Any) -> None:
        original = owner.from_pretrained

        def from_pretrained(*args: Any, **kwargs: Any) -> Any:
            asked[name] = kwargs.get("revision")
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, "from_pretrained", from_pretrained)

    for name, owner in (("model", AutoModelForCausalLM), ("config", AutoConfig), ("tokenizer", AutoTokenizer)):
        spy(name, owner)
    load_policy(folder, revision="abc")
    assert asked == {"model": "abc", "config": "abc", "tokenizer": "abc"}
    load_policy(folder, revision="abc", tokenizer=str(save_tiny_model(tmp_path / "other")))
    assert asked == {"model": "abc", "config": "abc", "tokenizer": None}
    load_policy(folder)
    assert set(asked.values()) == {None}


def test_a_path_that_no_file_system_takes_is_named() -> None:
    """Path.is_dir raises for a name that is too long."""
    with pytest.raises(ValueError, match="^model.path: cannot use 'aaa.*: File name too long"):
        load_policy("a" * 5000)
