"""The attention of packed trees: what each model computes on every trajectory on its own."""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    GptOssConfig,
    GptOssForCausalLM,
    Lfm2Config,
    Llama4TextConfig,
    MambaConfig,
    PreTrainedModel,
    Qwen3NextConfig,
)

from tests.learn.reference import flatten, sequences_of, subtree_ends
from tests.models import KINDS, SIZES, SLIDING_WINDOW, make_tiny_model
from tests.trees import random_tree
from treepo.model.attention import ATTENTION_NAME, TreeAttention, register_attention
from treepo.model.compatibility import check_config


def packed_logits(
    model: PreTrainedModel, trees: list[list[tuple[int, ...]]]
) -> list[dict[tuple[int, ...], np.ndarray]]:
    """For each tree, given as the sorted beginnings of its sequences, the logits after each beginning."""
    offsets = np.concatenate([[0], np.cumsum([len(tree) for tree in trees])])
    ids = torch.tensor([prefix[-1] for tree in trees for prefix in tree])
    positions = torch.tensor([len(prefix) - 1 for tree in trees for prefix in tree])
    ends = [end + offset for tree, offset in zip(trees, offsets, strict=False) for end in subtree_ends(tree)]
    context = TreeAttention(offsets.tolist(), torch.tensor(ends), positions)
    with torch.no_grad():
        output = model(
            input_ids=ids[None], position_ids=positions[None], use_cache=False, attention_context=context
        ).logits[0]
    rows = [output[start:end].numpy() for start, end in pairwise(offsets)]
    return [dict(zip(tree, logits, strict=True)) for tree, logits in zip(trees, rows, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_packed_logits_are_those_of_each_trajectory(kind: str) -> None:
    """Every token of every trajectory gets the logits that the model gives on the trajectory alone."""
    rng = np.random.default_rng(0)
    sequences = [sequences_of(random_tree(rng, 6, vocab=6, segment_len=6, max_segments=4)) for _ in range(3)]
    assert max(len(s) for tree in sequences for s in tree) > 2 * SLIDING_WINDOW
    packed = packed_logits(make_tiny_model(kind, dtype=torch.float64), [flatten(tree) for tree in sequences])
    plain = make_tiny_model(kind, dtype=torch.float64, attention="sdpa")
    for tree, logits in zip(sequences, packed, strict=True):
        for sequence in tree:
            with torch.no_grad():
                expected = plain(input_ids=torch.tensor([sequence]), use_cache=False).logits[0].numpy()
            got = np.stack([logits[tuple(sequence[: i + 1])] for i in range(len(sequence))])
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_depends_on_the_tokens_above_it_alone(kind: str) -> None:
    """Another sibling, another tree beside it, or another order of trees changes nothing in a trajectory's logits."""
    model = make_tiny_model(kind, dtype=torch.float64)
    main, sibling, other = (3, 4, 5, 6, 7, 8, 9), (3, 4, 5, 9, 9), (8, 8, 8, 3)
    alone = packed_logits(model, [flatten([main])])[0][main]
    beside = packed_logits(model, [flatten([other]), flatten([main, sibling])])[1][main]
    np.testing.assert_allclose(beside, alone, rtol=0, atol=1e-11)
    changed = packed_logits(model, [flatten([(4, *main[1:])])])[0][(4, *main[1:])]
    # One layer of windows sees no further than the window.
    if kind != "phi3":
        assert np.abs(changed - alone).max() > 1e-6


@pytest.mark.parametrize("kind", ["mistral", "phi3", "gemma3"])
def test_windows_are_seen(kind: str) -> None:
    """The models with windows differ from the same ones without, so the tests above do test windows."""
    sequence = tuple(range(3, 15))
    narrow = packed_logits(make_tiny_model(kind, dtype=torch.float64), [flatten([sequence])])[0]
    wide = packed_logits(make_tiny_model(kind, dtype=torch.float64, sliding_window=400), [flatten([sequence])])[0]
    inside, beyond = sequence[:SLIDING_WINDOW], sequence[: SLIDING_WINDOW + 1]
    np.testing.assert_allclose(narrow[inside], wide[inside], rtol=0, atol=1e-12)
    assert np.abs(narrow[beyond] - wide[beyond]).max() > 1e-6


@pytest.mark.parametrize("kind", ["qwen2", "mistral", "gemma3"])
def test_without_a_context_a_model_is_that_of_transformers(kind: str) -> None:
    """A model that had been trained, and trainer.model in a callback, could not be called: generate() raised."""
    ours, plain = make_tiny_model(kind), make_tiny_model(kind, attention="sdpa")
    ids = torch.arange(3, 15).repeat(2, 1)
    padded = torch.ones_like(ids)
    padded[1, :4] = 0
    for given in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": padded}):
        torch.testing.assert_close(ours(**given).logits, plain(**given).logits, rtol=0, atol=0)
        assert ours.generate(**given, max_new_tokens=8).tolist() == plain.generate(**given, max_new_tokens=8).tolist()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Gemma2Config(), "'gemma2' has attention with attn_logit_softcapping"),
        (Qwen3NextConfig(), "'qwen3_next' has layers of type ['linear_attention']"),
        (Lfm2Config(num_hidden_layers=2, layer_types=["conv", "full_attention"]), "'lfm2' has layers of type ['conv']"),
        (Llama4TextConfig(), "'llama4_text' has layers of type ['chunked_attention']"),
        (MambaConfig(), "'mamba' has layers of type ['linear_attention']"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_layers_that_cannot_be_served_are_named(config: object, message: str) -> None:
    """Soft-capping and layers that are not attention, or not of a kind that is served, are refused by name."""
    with pytest.raises(ValueError, match=re.escape(message)):
        check_config(config)


@pytest.mark.parametrize("kind", KINDS)
def test_served_configurations_pass(kind: str) -> None:
    """What the tests show to be right is not refused."""
    check_config(make_tiny_model(kind).config)


def test_a_gemma2_without_soft_capping_passes() -> None:
    """It is the soft-capping that is refused, not the family."""
    check_config(Gemma2Config(attn_logit_softcapping=None))


@pytest.mark.filterwarnings("ignore")
def test_sinks_are_refused_when_called() -> None:
    """A model whose attention has sinks raises at its first call."""
    register_attention()
    settings = {**SIZES, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}
    model = GptOssForCausalLM(GptOssConfig(vocab_size=16, attn_implementation=ATTENTION_NAME, **settings))
    positions = torch.arange(3)
    context = TreeAttention([0, 3], torch.full((3,), 3), positions)
    with pytest.raises(ValueError, match="GptOssAttention uses attention with s_aux"):
        model(input_ids=torch.tensor([[3, 4, 5]]), position_ids=positions[None], attention_context=context)
