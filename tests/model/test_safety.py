"""Models that anybody may have made: numbers, files and tokenizers that would take any time or memory."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models import save_tiny_model
from treepo.errors import SettingError
from treepo.model import safety
from treepo.model.policy import load_policy
from treepo.model.tokenizer_only import load_tokenizer_only
from treepo.report.page import report


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "whole", chat=True)


@pytest.fixture
def folder(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model to spoil; the limits are those of a quick test."""
    monkeypatch.setattr(safety, "PROBE_S", 1.0)
    monkeypatch.setattr(safety, "PROBE_BYTES", 1 << 30)
    return Path(shutil.copytree(whole, tmp_path / "model"))


def edit(path: Path, **changed: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def assert_refused(folder: Path, message: str) -> None:
    """By training and by a dry run, in one line."""
    for load in (load_policy, load_tokenizer_only):
        with pytest.raises(SettingError, match=f"^model.path: .*{message}") as raised:
            load(str(folder))
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "changed",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 1e9},
        {"n_layer": 10**9},
        {"num_nextn_predict_layers": 10**9},
        {"hidden_size": 10**12},
        {"intermediate_size": 10**10},
        {"num_attention_heads": 10**9},
        {"num_local_experts": 10**9},
        {"vocab_size": 10**30},
        {"head_dim": 10**9},
        {"text_config": {"num_hidden_layers": 10**9}},
        {"a": {"b": {"c": {"encoder_layers": 10**9}}}},
    ],
)
def test_numbers_that_no_model_has_are_refused(folder: Path, changed: dict[str, Any]) -> None:
    """A billion layers were listed, and then built, until memory was full."""
    edit(folder / "config.json", **changed)
    assert_refused(folder, "in its config.json; at most ")


def test_numbers_that_models_have_pass() -> None:
    """The largest of published models, and numbers that are no counts."""
    safety.check_config_sizes(
        {
            "num_hidden_layers": 200,
            "vocab_size": 1_000_000,
            "num_experts": 512,
            "max_position_embeddings": 10_485_760,
            "rope_theta": 10**11,
            "use_cache": True,
            "layers": "many",
        }
    )


def test_a_config_that_is_nested_deeply_is_one_line(folder: Path) -> None:
    (folder / "config.json").write_text('{"a":' * 100_000)
    assert_refused(folder, "recursion")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, device])
@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"),
        *("model.safetensors", "special_tokens_map.json", "added_tokens.json", "model.safetensors.index.json"),
        "additional_chat_templates/rag.jinja",
    ],
)
def test_pipes_and_devices_are_refused(folder: Path, name: str, make: Callable[[Path], None]) -> None:
    """Each was waited for, or read, without an end."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    assert_refused(folder, "not a plain file|no config.json in")


ENDLESS = 3 * "{% for i in range(99999) %}" + 3 * "{% endfor %}"

TEMPLATES = {
    "loops": ENDLESS,
    "a power": "{{ 10 ** (10 ** 10) }}",
    "a long text": "{{ 'a' * 10 ** 11 }}",
    "a text that doubles": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = 2 * n.x %}{% endfor %}",
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_template_without_an_end_is_refused(folder: Path, kind: str) -> None:
    """Some of these nothing in the same process could stop."""
    (folder / "chat_template.jinja").write_text(TEMPLATES[kind])
    with pytest.raises(SettingError, match="its tokenizer or chat template: it (takes more than|crashes)"):
        load_tokenizer_only(str(folder))
    assert report._load_tokenizer(str(folder)) is None


NORMALIZERS: dict[str, dict[str, Any]] = {
    "doubles": {
        "type": "Sequence",
        "normalizers": 60 * [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}],
    },
    "searches": {"type": "Replace", "pattern": {"Regex": "(a+)+b"}, "content": "x"},
}


@pytest.mark.parametrize("kind", NORMALIZERS)
def test_a_normalizer_that_explodes_is_refused(folder: Path, kind: str) -> None:
    """It took all memory of the machine, or a panic of Rust went past every `except Exception`."""
    edit(folder / "tokenizer.json", normalizer=NORMALIZERS[kind])
    # transformers makes the tokenizers of some kinds of models anew, without their own normalizer.
    edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    edit(folder / "config.json", model_type="llama", architectures=["LlamaForCausalLM"])
    assert_refused(folder, "its tokenizer or chat template: ")


def test_templates_and_tokenizers_that_fail_say_so_in_their_own_words(folder: Path) -> None:
    """What only fails is no matter of limits: a template that raises may never be used."""
    (folder / "chat_template.jinja").write_text("{{ raise_exception('ask nicely') }}")
    assert load_tokenizer_only(str(folder)).tokenizer.chat_template
    (folder / "tokenizer.json").write_text("{}")
    assert_refused(folder, "cannot load")


def test_a_template_that_does_not_end_for_one_prompt_is_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model was looked at with another text."""
    from treepo.data import prompts

    monkeypatch.setattr(prompts, "ENCODE_S", 0.8)
    template = "{% if 'Tuesday' in messages[-1]['content'] %}" + ENDLESS + "{% endif %}{{ messages[-1]['content'] }}"
    (folder / "chat_template.jinja").write_text(template)
    encode = prompts.PromptTemplate(question="{question}").encoder(load_tokenizer_only(str(folder)).tokenizer)
    assert encode("Monday")
    with pytest.raises(SettingError, match="^model.path: its tokenizer or chat template takes more than 1 seconds"):
        encode("Tuesday")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_settings_that_are_too_long_are_not_read(name, tmp_path):
    """transformers read 6 GB of generation_config.json into memory, and parsed them."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_text("{}")
    os.truncate(tmp_path / name, 6 << 30)
    with pytest.raises(SettingError, match=rf"^model\.path: cannot read .*{name}': longer than \d+ bytes$"):
        safety.check_model_files(tmp_path)
