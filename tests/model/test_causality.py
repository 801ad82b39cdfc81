"""Models that see later tokens are refused, whatever the size of their weights, packed or not."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.models import make_tiny_tokenizer
from treepo.errors import SettingError
from treepo.model.attention import ATTENTION_NAME, register_attention
from treepo.model.causality import check_causal
from treepo.model.policy import load_policy

TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}

STDS = [0.0, 1e-8, 1e-4, 0.02, 1.0]

BIDIRECTIONAL = [
    ("bert", {}),
    ("electra", {"embedding_size": 32}),
    ("roberta", {}),
    ("gemma3_text", {"use_bidirectional_attention": True, "head_dim": 8}),
    ("llama", {"is_causal": False}),
]

CAUSAL = [
    ("llama", {}),
    ("bert", {"is_decoder": True}),
    ("mistral", {"sliding_window": 6}),
    ("gemma2", {"head_dim": 8}),
    ("gpt_neox", {}),
    ("mixtral", {"num_local_experts": 4}),
]


def initialised(kind: str, std: float, attention: str | None, **settings: object) -> PreTrainedModel:
    register_attention()
    config = AutoConfig.for_model(kind, **{**TINY, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=std)
    return model.eval()


@pytest.mark.parametrize("attention", [ATTENTION_NAME, None])
@pytest.mark.parametrize("std", STDS)
@pytest.mark.parametrize(("kind", "settings"), BIDIRECTIONAL, ids=str)
def test_models_that_see_later_tokens_are_refused_at_any_scale(kind, settings, std, attention):
    """At a scale of 1e-4 what later tokens do to the logits passed for rounding."""
    with pytest.raises(SettingError, match="is no causal language model: its predictions depend on later tokens"):
        check_causal(initialised(kind, std, attention, **settings))


@pytest.mark.parametrize("attention", [ATTENTION_NAME, None])
@pytest.mark.parametrize("std", STDS)
@pytest.mark.parametrize(("kind", "settings"), CAUSAL, ids=str)
def test_causal_models_pass_and_keep_their_attention(kind, settings, std, attention):
    model = initialised(kind, std, attention, **settings)
    before = model.config._attn_implementation
    check_causal(model)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("std", [1e-4, 0.02, 1.0])
def test_attention_that_cannot_be_exchanged_is_tried_on_other_tokens(std, dtype):
    """Bloom is causal, a RemBERT that is no decoder is not; transformers lets neither's attention be exchanged."""
    bloom = {"n_layer": 2, "n_head": 4, "vocab_size": 64, "hidden_size": 32}
    config = AutoConfig.for_model("bloom", **bloom)
    check_causal(AutoModelForCausalLM.from_config(config).to(dtype).eval())
    rembert = initialised("rembert", std, None, input_embedding_size=32, output_embedding_size=32).to(dtype)
    assert not rembert._supports_attention_backend
    with pytest.raises(SettingError, match="'rembert' is no causal language model"):
        check_causal(rembert)


def test_models_that_use_weights_of_modules_that_they_do_not_call_are_tried_in_their_own_type():
    """Mamba's weights could not be widened while it ran, and it was refused in bfloat16."""
    config = AutoConfig.for_model("mamba", vocab_size=64, hidden_size=32, num_hidden_layers=2)
    check_causal(AutoModelForCausalLM.from_config(config).to(torch.bfloat16).eval())


@pytest.mark.parametrize(("packable", "std"), [(True, 1e-4), (False, 1e-4), (False, 0.02)])
def test_a_folder_with_a_bidirectional_model_is_refused(tmp_path: Path, packable: bool, std: float) -> None:
    """A BERT that cannot be packed was trained trajectory by trajectory, on log-probabilities of tokens that it saw."""
    tokenizer = make_tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    initialised("bert", std, None, vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    with pytest.raises(SettingError, match=r"^model\.path: cannot load .*'bert' is no causal language model") as caught:
        load_policy(str(tmp_path), packable=packable)
    assert type(caught.value) is SettingError
