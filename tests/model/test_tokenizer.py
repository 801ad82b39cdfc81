"""The tokenizer that is used and saved is the one in tokenizer.json, whatever class transformers would build."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from tests.models import CHAT_TEMPLATE, make_tiny_model, save_tiny_model
from treepo.errors import SettingError
from treepo.model.policy import load_policy
from treepo.model.tokenizer import load_tokenizer
from treepo.model.tokenizer_only import load_tokenizer_only

CORPUS = ["Tom has 123 apples and 4567 pears; he doesn't sell 89 of 1234.\n\nSo 123+4567 = 4690.  x y"] * 50
TEXTS = [
    "Natalia sold 48/2 = 24 clips in May, 1234567 in all.",
    "She doesn't   go.\n\n\n  12 34\n",
    "<user>1234<eos> 567",
    "\u4f60\u597d 123 caf\u00e9 \U0001f600",
]
SPECIAL = ["<pad>", "<bos>", "<eos>", "<user>"]
SETTINGS = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "padding_side": "left"}
CLASSES = ["GPT2Tokenizer", "LlamaTokenizer", "Qwen2Tokenizer", "PreTrainedTokenizerFast", "NoSuchTokenizer", None]


@pytest.fixture(scope="module")
def digits() -> Tokenizer:
    """Byte-level, with merges of digits that its pre-tokenizer, which splits numbers into digits, never lets happen."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    return tokenizer


def save_model(folder: Path, tokenizer: Tokenizer, kind: str, name: str | None, **settings: Any) -> Path:
    """A model's folder with this tokenizer.json, and a tokenizer_config.json unless the class has no name."""
    make_tiny_model(kind, vocab_size=tokenizer.get_vocab_size(), attention="sdpa").save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    if name is not None:
        config = {"tokenizer_class": name, "chat_template": CHAT_TEMPLATE, **SETTINGS, **settings}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def ids_of_file(folder: Path, special: bool = True) -> list[list[int]]:
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [own.encode(text, add_special_tokens=special).ids for text in TEXTS]


def ids_of(tokenizer: Any, special: bool = True) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=special) for text in TEXTS]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral"])
@pytest.mark.parametrize("name", CLASSES)
def test_ids_are_those_of_the_file_before_and_after_a_run(kind, name, digits, tmp_path):
    """transformers rebuilt the pre-tokenizer of a class: other ids for every number, trained on and exported."""
    folder = save_model(tmp_path / "model", digits, kind, name)
    policy = load_policy(str(folder))
    assert ids_of(policy.tokenizer) == ids_of_file(folder)
    policy.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert ids_of(load_policy(str(tmp_path / "saved")).tokenizer) == ids_of_file(folder)
    # transformers rebuilds that of a Qwen2 whatever its folder says.
    if kind != "qwen2":
        assert ids_of(AutoTokenizer.from_pretrained(tmp_path / "saved")) == ids_of_file(folder)


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "PreTrainedTokenizerFast", "BertTokenizer"])
def test_special_tokens_template_and_side_are_kept(name, digits, tmp_path):
    """Also where the class cannot be built from the file at all, of which loading failed."""
    folder = save_model(tmp_path / "model", digits, "llama", name)
    load_policy(str(folder)).save(tmp_path / "saved")
    for path in (folder, tmp_path / "saved"):
        tokenizer = load_tokenizer(str(path)).tokenizer
        assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
        assert (tokenizer.chat_template, tokenizer.padding_side) == (CHAT_TEMPLATE, "left")
        assert tokenizer.decode([*ids_of_file(folder)[2]], skip_special_tokens=True) == "<user>1234 567"[6:]


def test_what_the_class_alone_knows_is_kept(digits, tmp_path):
    """GPT-2's end of text is a default of its class, which no file of the folder names."""
    digits = Tokenizer.from_str(digits.to_str())
    digits.add_special_tokens(["<|endoftext|>"])
    folder = save_model(tmp_path / "model", digits, "llama", "GPT2Tokenizer")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    load_policy(str(folder)).save(tmp_path / "saved")
    for path in (folder, tmp_path / "saved"):
        assert load_tokenizer(str(path)).tokenizer.eos_token == "<|endoftext|>"
        assert ids_of(load_tokenizer(str(path)).tokenizer) == ids_of_file(folder)


def test_the_difference_is_logged_with_a_text(digits, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        load_tokenizer(str(save_model(tmp_path / "plain", digits, "llama", "PreTrainedTokenizerFast")))
        assert caplog.text == ""
        load_tokenizer(str(save_model(tmp_path / "gpt2", digits, "llama", "GPT2Tokenizer")))
    assert "GPT2Tokenizer of transformers gives other ids for '12345 1," in caplog.text


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "LlamaTokenizer", "PreTrainedTokenizerFast"])
def test_the_file_says_which_special_tokens_stand_around_a_text(name, digits, tmp_path):
    """Not a default of the class, nor add_bos_token, which transformers 5 does not read beside tokenizer.json."""
    folder = save_model(tmp_path / "model", digits, "llama", name, add_bos_token=True)
    load_policy(str(folder)).save(tmp_path / "saved")
    for path in (folder, tmp_path / "saved"):
        assert ids_of(load_tokenizer(str(path)).tokenizer) == ids_of_file(folder)


def test_a_template_of_the_file_truncation_and_padding_are_not_mistaken(digits, tmp_path, caplog):
    """The file's BOS is kept; a length that it was saved with cuts no prompt and is no difference."""
    own = Tokenizer.from_str(digits.to_str())
    own.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    own.enable_truncation(4)
    own.enable_padding(length=9)
    folder = save_model(tmp_path / "model", own, "llama", "PreTrainedTokenizerFast")
    own.no_truncation()
    own.no_padding()
    with caplog.at_level(logging.WARNING):
        tokenizer = load_tokenizer(str(folder)).tokenizer
    assert ids_of(tokenizer) == [own.encode(text).ids for text in TEXTS]
    assert caplog.text == ""


def test_tokens_that_the_settings_add_are_no_difference(digits, tmp_path, caplog):
    folder = save_model(tmp_path / "model", digits, "llama", "PreTrainedTokenizerFast", pad_token="<new>")
    with caplog.at_level(logging.WARNING):
        tokenizer = load_tokenizer(str(folder)).tokenizer
    assert tokenizer.pad_token_id == digits.get_vocab_size()
    assert caplog.text == ""


def test_a_model_without_the_file_is_loaded_and_saved(digits, tmp_path):
    """From vocabulary and merges, as GPT-2 was published at first."""
    folder = save_model(tmp_path / "model", digits, "llama", "GPT2Tokenizer", unk_token="<eos>")
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in model["merges"]))
    (folder / "tokenizer.json").unlink()
    policy = load_policy(str(folder))
    expected = ids_of(AutoTokenizer.from_pretrained(folder))
    assert ids_of(policy.tokenizer) == expected
    policy.save(tmp_path / "saved")
    assert ids_of(AutoTokenizer.from_pretrained(tmp_path / "saved")) == expected


@pytest.mark.parametrize("name", ["Qwen2Tokenizer", "LlamaTokenizer", "GPT2Tokenizer", None])
def test_a_vocabulary_that_is_missing_is_not_made_up(name, digits, tmp_path):
    """transformers builds a tokenizer of special tokens alone: `treepo eval` asked empty prompts, with exit code 0."""
    folder = save_model(tmp_path / "model", digits, "qwen2", name)
    (folder / "tokenizer.json").unlink()
    for load in (load_policy, load_tokenizer_only):
        with pytest.raises(SettingError, match=r"^model\.path: .*tokenizer"):
            load(str(folder))


def test_a_tokenizer_that_agrees_is_left_alone(tmp_path, caplog):
    folder = save_tiny_model(tmp_path / "model", chat=True)
    with caplog.at_level(logging.WARNING):
        loaded = load_tokenizer(str(folder))
    assert type(loaded.tokenizer).__name__ == "Qwen2Tokenizer"
    assert loaded.files["tokenizer_config.json"] == (folder / "tokenizer_config.json").read_bytes()
    assert caplog.text == ""
