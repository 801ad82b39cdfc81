"""Models are compared with their own plain forward when they are loaded, and refused if packing would change them."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GptOssConfig,
    Phi3Config,
    PreTrainedModel,
)

from tests.models import KINDS, make_tiny_model, make_tiny_tokenizer, save_tiny_model
from treepo.model import compatibility
from treepo.model.attention import ATTENTION_NAME, TreeAttention, register_attention
from treepo.model.compatibility import (
    check_logits_match,
    has_plain_head,
    max_exact_len,
    training_settings_ignored,
)
from treepo.model.policy import load_policy
from treepo.model.probe import in_type

TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 110,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def saved(folder, config) -> str:
    """A folder with a random model of this configuration."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    make_tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_the_models_of_the_tests_are_served_exactly(kind):
    check_logits_match(make_tiny_model(kind, vocab_size=50))


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_sharp_models_in_narrow_types_are_served(kind):
    """In bfloat16 the log-probabilities of improbable tokens of a model that knows something are off by more than any
    limit that would catch a wrong attention: such models were trained trajectory by trajectory. What counts is how far
    they are off by probability."""
    check_logits_match(make_tiny_model(kind, vocab_size=200, initializer_range=0.6, dtype=torch.bfloat16))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_with_learned_positions_is_served(dtype, tmp_path):
    path = saved(tmp_path, GPT2Config(vocab_size=110, n_embd=32, n_layer=2, n_head=4, n_positions=64))
    assert load_policy(path, dtype=dtype).max_len == 64


def test_a_model_that_sees_more_than_the_past_is_refused():
    """Rounding must not hide it: every token sees itself only instead of what lies above it."""
    model = make_tiny_model("qwen2", vocab_size=50)
    forward = model.forward

    def blind(**inputs):
        if "attention_context" in inputs:
            length = inputs["input_ids"].shape[1]
            ends = torch.arange(1, length + 1)
            inputs["attention_context"].inner = TreeAttention([0, length], ends, inputs["position_ids"][0])
        return forward(**inputs)

    model.forward = blind
    with pytest.raises(ValueError, match="'qwen2' computes something else than causal attention"):
        check_logits_match(model)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GptOssConfig(**TINY, num_local_experts=2, layer_types=["full_attention"] * 2), "sinks"),
        ("diffllama", "calls its attention twice"),
        ("nemotron", "attention_context did not reach the attention"),
    ],
)
def test_models_that_would_be_served_wrongly_are_refused_when_loaded(config, message, tmp_path):
    """diffllama was served with the keys of one half of its heads for the other; gpt-oss failed in the run."""
    if isinstance(config, str):
        config = AutoConfig.for_model(config, **TINY)
    path = saved(tmp_path, config)
    with pytest.raises(ValueError, match=message) as error:
        load_policy(path)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    next(model.parameters()).data.fill_(float("nan"))
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="the logits of 'qwen2' are not finite"):
        load_policy(str(folder))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    make_tiny_model("qwen2", vocab_size=20).save_pretrained(folder)
    with pytest.raises(ValueError, match="the tokenizer has 100 tokens, the model 20"):
        load_policy(str(folder))


def test_rotary_positions_that_depend_on_the_length_bound_it():
    """Long-RoPE switches its frequencies with the longest sequence of a forward, which packing and batching change."""
    factors = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4}
    config = Phi3Config(**TINY, original_max_position_embeddings=32, rope_parameters=factors)
    assert max_exact_len(config) == 32
    assert max_exact_len(Phi3Config(**TINY)) == 64


ARCHITECTURES = {
    "llama": {"sliding_window": 8},
    "mistral": {"sliding_window": 6},
    "qwen2": {"sliding_window": 8, "use_sliding_window": False},
    "qwen3": {},
    "gemma3_text": {},
    "phi3": {},
    "olmo2": {},
    "granite": {},
    "cohere": {},
    "gpt_neox": {},
    "mixtral": {"num_local_experts": 4},
}


def initialised(kind: str, std: float, dtype: torch.dtype, **settings) -> PreTrainedModel:
    register_attention()
    config = AutoConfig.for_model(kind, **{**TINY, "num_hidden_layers": 3, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION_NAME)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=std)
    return model.to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("std", [0.002, 0.02, 0.3])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_causal_models_are_served_in_every_type_at_any_scale(kind, std, dtype):
    """SmolLM2 was refused in bfloat16: the limit was one for all models. A window in the settings of a Llama, which has
    none, was taken for one that it keeps to itself."""
    check_logits_match(initialised(kind, std, dtype, **ARCHITECTURES[kind]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("std", [0.002, 0.02, 0.3])
def test_a_bidirectional_model_is_refused_at_any_scale(std, dtype):
    """Freshly initialised, its logits were so small that their differences passed for rounding."""
    with pytest.raises(ValueError, match="'bert' computes something else than causal attention"):
        check_logits_match(initialised("bert", std, dtype))


def test_a_window_that_only_the_mask_knows_is_refused(monkeypatch):
    """The window of a Mistral that does not reach its attention function: packing would see beyond it."""
    model = initialised("mistral", 0.3, torch.float32, sliding_window=40)
    forward = compatibility._RecordingAttention.__call__

    def without_window(self, layer, query, key, value, scale, window):
        return forward(self, layer, query, key, value, scale, None)

    monkeypatch.setattr(compatibility._RecordingAttention, "__call__", without_window)
    with pytest.raises(ValueError, match="keeps its sliding window to itself"):
        check_logits_match(model)


@pytest.mark.parametrize(
    ("kind", "settings", "is_plain"),
    [
        ("llama", {}, True),
        ("granite", {"logits_scaling": 1.0}, True),
        ("granite", {"logits_scaling": 8.0}, False),
        ("cohere", {"logit_scale": 0.0625}, False),
        ("gemma2", {"final_logit_softcapping": 30.0}, False),
        ("gemma2", {"final_logit_softcapping": None}, True),
    ],
)
@pytest.mark.parametrize("std", [0.002, 0.3])
def test_what_follows_the_head_is_found_however_small_the_logits_are(kind, settings, is_plain, std):
    """Capped at 30 or scaled, tiny logits hardly change: the loss was computed without, and was wrong as they grew."""
    model = initialised(kind, std, torch.float32, **settings)
    model.set_attn_implementation("eager")
    assert has_plain_head(model, supports_tree_attention=False) is is_plain


def test_weights_keep_their_type_and_values_after_a_computation_in_another():
    model = initialised("llama", 0.02, torch.bfloat16)
    model.set_attn_implementation("eager")
    before = {name: (p.data_ptr(), p.dtype, p.clone()) for name, p in model.named_parameters()}
    with in_type(model, torch.float64):
        assert model(input_ids=torch.arange(4)[None]).logits.dtype == torch.float64
    with pytest.raises(IndexError), in_type(model, torch.float64):
        model(input_ids=torch.tensor([[10**6]]))
    for name, parameter in model.named_parameters():
        address, dtype, values = before[name]
        assert (parameter.data_ptr(), parameter.dtype) == (address, dtype)
        assert torch.equal(parameter, values)


def test_dropout_and_auxiliary_losses_that_are_not_applied_are_named():
    config = AutoConfig.for_model("mixtral", **TINY, attention_dropout=0.1, router_aux_loss_coef=0.001)
    assert training_settings_ignored(config) == ["attention_dropout = 0.1", "router_aux_loss_coef = 0.001"]
    assert training_settings_ignored(AutoConfig.for_model("qwen2", **TINY)) == []
    noisy = AutoConfig.for_model("mixtral", **TINY, router_jitter_noise=0.01, router_aux_loss_coef=0.0)
    assert training_settings_ignored(noisy) == ["router_jitter_noise = 0.01"]
    # The dropout of its summaries belongs to another head.
    config = AutoConfig.for_model("gpt2", summary_first_dropout=0.1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.2)
    assert training_settings_ignored(config) == ["attn_pdrop = 0.2"]
    assert training_settings_ignored(AutoConfig.for_model("dbrx")) == ["moe_loss_weight = 0.01"]
