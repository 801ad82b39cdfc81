"""The trainer's log-probabilities, however they are computed."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from tests.learn.reference import all_logprobs, ppo, random_advantages, random_trees, response_logprobs, separate_loss
from tests.learn.test_update import gradients, largest_difference, updater_of
from tests.models import SIZES, make_tiny_model
from treepo.engine.base import SampleRequest
from treepo.engine.transformers import TransformersEngine
from treepo.learn.logits import BLOCK_ELEMENTS, affordable_logits, score_targets
from treepo.learn.packing import PackedTree, pack, pack_trajectories
from treepo.learn.scoring import Scorer, Scores, collate
from treepo.model.attention import ATTENTION_NAME, register_attention
from treepo.model.compatibility import has_plain_head
from treepo.model.norms import use_fused_norms
from treepo.model.policy import recompute_activations
from treepo.tree import ROOT, Node, StopReason, Tree


def some_trees(seed: int = 0) -> tuple[list[Tree], list[PackedTree]]:
    """Three random trees, packed."""
    trees = random_trees(make_tiny_model(attention="sdpa"), seed, num_trees=3)
    advantages = random_advantages(trees, seed)
    return trees, [pack(tree, a) for tree, a in zip(trees, advantages, strict=True)]


def graded(scorer: Scorer, packed: list[PackedTree], entropy_has_grad: bool = True) -> tuple[Scores, dict]:
    """Scores, and the gradients of a sum that weighs every target differently."""
    scorer.model.zero_grad()
    scores = scorer(collate(packed), entropy_has_grad)
    weights = torch.arange(len(scores.entropies), dtype=scores.entropies.dtype)
    (scores.policy_logprobs * weights.cos() + scores.entropies * weights.sin()).sum().backward()
    return scores, gradients(scorer.model)


@pytest.mark.parametrize("max_logits", [1, 100, 16 * 7])
def test_logits_in_chunks_are_the_same_logits(max_logits: int) -> None:
    """Down to one token at a time, values and gradients do not change, with terms of one token in one chunk."""
    _, packed = some_trees()
    scorer = Scorer(make_tiny_model(dtype=torch.float64))
    whole, expected = graded(scorer, packed)
    chunked, got = graded(replace(scorer, max_logits=max_logits), packed)
    torch.testing.assert_close(chunked.policy_logprobs, whole.policy_logprobs, rtol=0, atol=1e-14)
    torch.testing.assert_close(chunked.entropies, whole.entropies, rtol=0, atol=1e-14)
    assert largest_difference(got, expected) < 1e-12


def test_chunks_bound_the_logits_that_are_held() -> None:
    """With a large vocabulary no tensor of the backward pass is larger than a chunk of logits."""
    _, packed = some_trees()
    model = make_tiny_model(vocab_size=5000)
    limit = 20_000
    sizes: list[int] = []

    def note(x: torch.Tensor) -> torch.Tensor:
        if x.numel() % 5000 == 0 and x.shape != model.get_output_embeddings().weight.shape:
            sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        scores = Scorer(model, max_logits=limit)(collate(packed))
    assert not [size for size in sizes if size > 5000], "no logits are kept for the backward pass"
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        Scorer(model)(collate(packed))
    assert max(sizes) > limit, "the test would see them"
    scores.policy_logprobs.sum().backward()


def reference_scores(logits: torch.Tensor, places: torch.Tensor, ids: torch.Tensor, temperature: float) -> Scores:
    """By torch's own log_softmax of all logits."""
    logprobs = torch.log_softmax(logits / temperature, -1)
    return Scores(logprobs[places, ids], -(logprobs.exp() * logprobs).sum(-1)[places])


@pytest.mark.parametrize("block", [1, 30, 1 << 18])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("with_entropy", [True, False])
def test_targets_are_scored_as_by_log_softmax(
    block: int, temperature: float, with_entropy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients in float64 agree to 1e-12 for blocks of any size, with rows of several targets, of none, and
    of the same target twice."""
    monkeypatch.setitem(BLOCK_ELEMENTS, "cpu", block)
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(7, 11, generator=generator, dtype=torch.float64)).requires_grad_()
    places, ids = torch.tensor([0, 0, 0, 2, 3, 3, 6]), torch.tensor([4, 4, 10, 0, 1, 2, 5])
    weights = torch.randn(2, 7, generator=generator, dtype=torch.float64)

    def graded_logits(scores: Scores) -> tuple[torch.Tensor, ...]:
        total = (scores.policy_logprobs * weights[0]).sum()
        if with_entropy:
            total = total + (scores.entropies * weights[1]).sum()
        return scores.policy_logprobs, scores.entropies, *torch.autograd.grad(total, logits)

    expected = graded_logits(reference_scores(logits, places, ids, temperature))
    own = graded_logits(Scores(*score_targets(logits, places, ids, temperature, with_entropy)))
    for one, other in zip(own, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_autocast_does_not_reach_the_scores() -> None:
    """Entropies of the same logits are those without it, bit for bit."""
    logits = 3 * torch.randn(7, 500, generator=torch.Generator().manual_seed(0))
    places = ids = torch.arange(7)
    plain = score_targets(logits, places, ids, 0.7, False)
    with torch.autocast("cpu", torch.bfloat16):
        own = score_targets(logits, places, ids, 0.7, False)
    assert all(torch.equal(one, other) for one, other in zip(own, plain, strict=True))


def test_a_large_vocabulary_fits() -> None:
    """With 151,936 words and room for the logits of two rows, gradients are those of all at once."""
    _, packed = some_trees()
    packed, model = packed[:1], make_tiny_model(vocab_size=151_936)
    _, expected = graded(Scorer(model), packed)
    _, got = graded(Scorer(model, max_logits=1 << 19), packed)
    assert largest_difference(got, expected) < 1e-4


def test_the_logits_that_are_held_depend_on_no_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sixteenth of all memory, or of a container's limit, with their gradient; less where processes share it."""
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 20}
    monkeypatch.setattr("treepo.learn.logits.os.sysconf", pages.__getitem__)
    monkeypatch.setattr("treepo.learn.logits.CGROUP_LIMITS", ())
    cpu = torch.device("cpu")
    assert affordable_logits(cpu, torch.float32) == (1 << 32) // 16 // 8
    assert affordable_logits(cpu, torch.bfloat16, 4) == (1 << 32) // 16 // 4 // 4


def test_entropies_have_a_gradient_only_when_it_is_asked_for() -> None:
    _, packed = some_trees()
    scorer = Scorer(make_tiny_model())
    assert not scorer(collate(packed)).entropies.requires_grad
    assert scorer(collate(packed), entropy_has_grad=True).entropies.requires_grad


def test_logprobs_come_back_in_order() -> None:
    """In micro-batches of any size, per tree and per target."""
    trees, packed = some_trees(1)
    scorer = Scorer(make_tiny_model(dtype=torch.float64))
    plain = make_tiny_model(dtype=torch.float64, attention="sdpa")
    for max_tokens in (1, 40, 10**6):
        for tree, one, logprobs in zip(trees, packed, scorer.logprobs(packed, max_tokens), strict=True):
            with torch.no_grad():
                expected = sum(float(response_logprobs(plain, tree, leaf).sum()) for leaf in tree.leaves())
            assert float((logprobs * (one.leaf_ends - one.leaf_starts)).sum()) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gemma3"])
def test_recomputed_activations_change_no_gradient(kind: str) -> None:
    """And dropout, which the configuration asks for in training, stays off inside the layers."""
    _, packed = some_trees(2)
    settings = {"attention_dropout": 0.5}
    _, expected = graded(Scorer(make_tiny_model(kind, dtype=torch.float64)), packed)
    model = make_tiny_model(kind, dtype=torch.float64, **settings)
    num_kept = kept_numbers(model, packed)
    recompute_activations(model)
    _, got = graded(Scorer(model), packed)
    assert largest_difference(got, expected) < 1e-12
    assert kept_numbers(model, packed) < num_kept / 2


def test_activations_are_recomputed_with_the_compiled_attention_too() -> None:
    """Its backward pass once asked for what was kept twice, which checkpointing does not allow."""
    _, packed = some_trees(2)
    _, expected = graded(Scorer(make_tiny_model()), packed)
    model = make_tiny_model()
    recompute_activations(model)
    _, got = graded(Scorer(model), packed)
    assert largest_difference(got, expected) == 0


def test_recomputing_switches_no_dropout_on() -> None:
    """OPT's layers drop out by their own flag, which transformers' checkpointing has to set; ours leaves it alone."""
    register_attention()
    sizes = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = OPTConfig(vocab_size=16, word_embed_proj_dim=32, dropout=0.5, attn_implementation=ATTENTION_NAME, **sizes)
    _, packed = some_trees(2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OPTForCausalLM(config).eval()
    _, expected = graded(Scorer(model), packed)
    recompute_activations(model)
    _, got = graded(Scorer(model), packed)
    assert largest_difference(got, expected) < 1e-6


def test_sampling_goes_on_as_without_recomputed_activations() -> None:
    """transformers' checkpointing takes the cache away from layers in training mode, also without gradients."""
    request = SampleRequest(0, np.array([3, 4, 5, 6]), 8, seed=1)
    results = []
    for recompute in (False, True):
        model = unpackable("gpt-oss")
        if recompute:
            recompute_activations(model)
        engine = TransformersEngine(model, ())
        engine.submit(request)
        results += engine.step()
    assert results[0].token_ids.tolist() == results[1].token_ids.tolist()
    np.testing.assert_array_equal(results[0].logprobs, results[1].logprobs)


def test_padded_forwards_keep_to_the_budget() -> None:
    """One long trajectory and many short ones: mixed in one batch the padding would be most of it."""
    tree = Tree.from_prompt("p", np.array([3, 4], np.int32), 0)
    for length in (50, 3, 2, 4, 3, 5, 2):
        tree.add(Node(ROOT, np.arange(length, dtype=np.int32) % 16, np.zeros(length, np.float32), 0, StopReason.EOS))
    parts = pack_trajectories(tree, np.ones(7))
    sizes = [part.num_tokens for part in parts]
    scorer = Scorer(unpackable("gpt-oss"), supports_tree_attention=False)
    for max_tokens in (1, 12, 20, 60, 1000):
        batches = scorer.batches(parts, max_tokens)
        assert sorted(i for batch in batches for i in batch) == list(range(7))
        for batch in batches:
            assert len(batch) == 1 or len(batch) * max(sizes[i] for i in batch) <= max_tokens
    assert len(scorer.batches(parts, 60)) == 2


def kept_numbers(model: PreTrainedModel, packed: list[PackedTree]) -> int:
    """How many numbers a forward keeps for the backward pass, besides the weights."""
    weights = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        if x.data_ptr() not in weights:
            kept[x.data_ptr()] = x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        scores = Scorer(model)(collate(packed))
    assert scores.policy_logprobs.requires_grad
    return sum(kept.values())


def test_layers_that_cannot_recompute_are_named() -> None:
    with pytest.raises(ValueError, match="train.gradient_checkpointing: Linear has no layers"):
        recompute_activations(torch.nn.Linear(2, 2))


def test_autocast_keeps_the_weights_wide() -> None:
    """Products in bfloat16, weights and their gradients in float32, and scores near those of float32."""
    _, packed = some_trees(3)
    model = make_tiny_model(initializer_range=0.05)
    wide, expected = graded(Scorer(model), packed)
    narrow, got = graded(Scorer(model, autocast=torch.bfloat16), packed)
    assert narrow.policy_logprobs.dtype == torch.float32
    difference = (narrow.policy_logprobs - wide.policy_logprobs).abs().max()
    assert 0 < difference < 0.05
    for name, gradient in got.items():
        assert gradient.dtype == torch.float32
        assert (gradient - expected[name]).norm() < 0.1 * expected[name].norm() + 1e-3


def test_gradients_of_bfloat16_point_where_those_of_float32_do() -> None:
    """With chunks of logits that are kept, and with some that are computed again."""
    _, packed = some_trees(3)
    model = make_tiny_model(initializer_range=0.05)
    _, expected = graded(Scorer(model), packed, entropy_has_grad=False)
    use_fused_norms(model)
    whole = torch.cat([gradient.flatten() for gradient in expected.values()])
    for max_logits in (None, 16 * 7):
        scorer = Scorer(model, autocast=torch.bfloat16, max_logits=max_logits)
        _, got = graded(scorer, packed, entropy_has_grad=False)
        narrow = torch.cat([got[name].flatten() for name in expected])
        assert torch.cosine_similarity(narrow, whole, dim=0) > 0.999


def granite(attention: str) -> PreTrainedModel:
    """Its logits are scaled after the output embeddings."""
    register_attention()
    config = GraniteConfig(vocab_size=16, logits_scaling=3.0, attn_implementation=attention, **SIZES)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GraniteForCausalLM(config).double().eval()


def test_what_comes_after_the_output_embeddings_is_not_left_out() -> None:
    """A model that scales its logits is found out, and scored through its own forward."""
    assert has_plain_head(make_tiny_model())
    assert has_plain_head(make_tiny_model("gemma3"))
    model = granite(ATTENTION_NAME)
    assert not has_plain_head(model)
    trees, packed = some_trees(4)
    plain = granite("sdpa")
    logprobs = Scorer(model, has_plain_head=False).logprobs(packed, 10**6)
    for tree, one, own in zip(trees, packed, logprobs, strict=True):
        with torch.no_grad():
            expected = sum(float(response_logprobs(plain, tree, leaf).sum()) for leaf in tree.leaves())
        # transformers' norms round to float32.
        assert float((own * (one.leaf_ends - one.leaf_starts)).sum()) == pytest.approx(expected, rel=1e-5)


def unpackable(kind: str) -> PreTrainedModel:
    """Models whose layers cannot be told who sees whom: recurrent, with sinks, with an attention of their own."""
    made: dict[str, Callable[[], PreTrainedModel]] = {
        "mamba": lambda: MambaForCausalLM(MambaConfig(**small, state_size=4)),
        "gpt-oss": lambda: GptOssForCausalLM(GptOssConfig(vocab_size=16, **experts, **SIZES)),
        "bloom": lambda: BloomForCausalLM(BloomConfig(**small, n_head=2)),
    }
    small = {"vocab_size": 16, "hidden_size": 32, "num_hidden_layers": 1}
    experts: dict[str, Any] = {
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "head_dim": 8,
        "layer_types": ["full_attention"] * 2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return made[kind]().eval()


@pytest.mark.parametrize("kind", ["mamba", "gpt-oss", "bloom"])
def test_models_that_cannot_be_packed_train_on_separate_trajectories(kind: str) -> None:
    """As rows with padding on the right, whose gradients are those of trajectories one by one."""
    trees, _ = some_trees(5)
    advantages = random_advantages(trees, 5)
    plain, model = unpackable(kind), unpackable(kind)
    separate_loss(plain, trees, advantages, ppo(0.2, 0.28)).backward()
    plain_head = has_plain_head(model, supports_tree_attention=False)
    updater = replace(
        updater_of(model, 60, scorer=Scorer(model, 1.0, plain_head, supports_tree_attention=False)), packing=False
    )
    updater.update([p for tree, own in zip(trees, advantages, strict=True) for p in updater.pack(tree, own)])
    expected, got = gradients(plain), gradients(model)
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest_difference(got, expected) < 1e-4 * largest


def test_padding_is_refused_for_what_shares_tokens() -> None:
    """A tree laid out as rows would be nonsense."""
    _, packed = some_trees(6)
    model = make_tiny_model(attention="sdpa")
    with pytest.raises(AssertionError, match="single trajectories"):
        Scorer(model, supports_tree_attention=False)(collate(packed))


def test_entropies_by_hand() -> None:
    """At the temperature that was sampled at; a uniform distribution has log V."""
    trees, packed = some_trees(7)
    model = make_tiny_model(dtype=torch.float64)
    scores = Scorer(model, temperature=0.7)(collate(packed[:1]))
    plain = make_tiny_model(dtype=torch.float64, attention="sdpa")
    first = trees[0].leaves()[0]
    with torch.no_grad():
        every = all_logprobs(plain, trees[0].ids(first).tolist(), 0.7)[len(trees[0].prompt_ids) - 1]
    assert float(scores.entropies[0]) == pytest.approx(float(-(every.exp() * every).sum()))
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    assert Scorer(model)(collate(packed)).entropies.tolist() == pytest.approx(
        [math.log(16)] * len(collate(packed).packed.targets)
    )


def test_apart_and_together_score_alike() -> None:
    """The same target has the same log-probability whether its trajectory is packed with others or not."""
    trees, packed = some_trees(8)
    scorer = Scorer(make_tiny_model(dtype=torch.float64))
    for tree, one in zip(trees, packed, strict=True):
        shared = scorer.logprobs([one], 10**6)[0]
        apart = scorer.logprobs(pack_trajectories(tree, one.leaf_advantages), 10**6)
        total = sum(float(x.sum()) for x in apart)
        assert float((shared * (one.leaf_ends - one.leaf_starts)).sum()) == pytest.approx(total, rel=1e-12)
