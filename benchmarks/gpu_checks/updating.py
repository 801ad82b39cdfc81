"""Updates over packed trees: gradients, compiled graphs, the share of the peak, memory, and whole trajectories side by
side, which is what TRL (`padding_free`) and verl (`use_remove_padding`) forward."""

from inspect import signature
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from gpu_checks.checks import PEAK_FLOPS, Checks
from treepo.learn.packing import PackedTree, pack, pack_trajectories
from treepo.learn.scoring import Scorer, TreeBatch, collate
from treepo.model.policy import recompute_activations
from treepo.tree import Node, StopReason, Tree


def update(checks: Checks) -> None:
    """Gradients of packed trees against trajectories one by one, compilations, speed and memory."""
    check_gradients(checks)
    check_speed(checks)


def check_gradients(checks: Checks) -> None:
    """Of a small model; and how many graphs are compiled for trees of several sizes."""
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 1000}
    model = checks.model(torch.float32, **sizes, num_attention_heads=4)
    scorer, tree = Scorer(model), comb(0, 8, 50, 9)
    weights = np.random.default_rng(0).normal(size=8)
    found = [gradients(model, scorer, parts) for parts in ([pack(tree, weights)], pack_trajectories(tree, weights))]
    diff = ((found[0] - found[1]).norm() / found[1].norm()).item()
    checks.add("update/gradient_diff", diff, "at most 1e-3 in float32", diff <= 1e-3)
    if checks.is_tiny:
        checks.skip("update/graphs", "FlexAttention is compiled on GPUs alone")
    else:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        for n in range(6):
            gradients(model, scorer, [pack(comb(n, 8, 50 + 13 * n, 9 + n), np.ones(8))])
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        checks.add("update/graphs", graphs, "at most 4 for 6 sizes", graphs <= 4)


def check_speed(checks: Checks) -> None:
    """A tree of 8,000 distinct tokens, packed, and its whole trajectories side by side."""
    model = checks.model(torch.float32)
    recompute_activations(model)
    # Equality is shown in float32, which FlashAttention does not have: on the CPU.
    autocast = None if checks.is_tiny else torch.bfloat16
    tree, weights = (comb(1, 4, 16, 8), np.ones(4)) if checks.is_tiny else (comb(1, 16, 256, 330), np.ones(16))
    scorer, packed = Scorer(model, autocast=autocast), [pack(tree, weights)]
    if not checks.is_tiny:
        torch.cuda.reset_peak_memory_stats()
    seconds = checks.timed(lambda: gradients(model, scorer, packed), 3, 2)
    # Forward, forward again for the activations, and backward, which is twice as much.
    flops = 8 * sum(p.numel() for p in model.parameters()) * packed[0].num_tokens
    share = flops / seconds / PEAK_FLOPS
    checks.add_speed(
        "update/share_of_peak", round(share, 3), f"at least 0.4, {packed[0].num_tokens} tokens", share >= 0.4
    )
    if not checks.is_tiny:
        checks.add("update/peak_GiB", round(torch.cuda.max_memory_allocated() / 2**30, 1), "shown", passed=True)
    whole, side_by_side = pack_trajectories(tree, weights), LengthPackedScorer(model, autocast=autocast)
    found = gradients(model, scorer, packed)
    expected = gradients(model, side_by_side, whole, together=True)
    diff = ((found - expected).norm() / expected.norm()).item()
    limit = 1e-3 if checks.is_tiny else 0.1
    wanted = f"at most {limit:g} in {'float32' if checks.is_tiny else 'bfloat16'}"
    checks.add("update/length_packed/gradient_diff", diff, wanted, diff <= limit)
    del found, expected
    speed_up = checks.timed(lambda: gradients(model, side_by_side, whole, together=True), 3, 1) / seconds
    token_ratio = sum(part.num_tokens for part in whole) / packed[0].num_tokens
    share = speed_up / token_ratio
    wanted = f"at least 0.9: {speed_up:.2f} times as fast, {token_ratio:.2f} times fewer tokens"
    checks.add_speed("update/length_packed/share_of_token_ratio", round(share, 3), wanted, share >= 0.9)


class LengthPackedScorer(Scorer):
    """Scores whole trajectories that lie side by side, through FlashAttention for sequences of several lengths."""

    def _packed_inputs(self, batch: TreeBatch) -> dict[str, Any]:
        attention = SequenceAttention(batch.offsets, self.model.device)
        return super()._packed_inputs(batch) | {"attention_context": attention}


class SequenceAttention:
    """Causal attention within each sequence: `varlen_attn` of torch on a GPU, one sequence after the other on the CPU.

    offsets: where each sequence starts, and the end of the last.
    """

    def __init__(self, offsets: list[int], device: torch.device) -> None:
        self.offsets = offsets
        self.starts = torch.tensor(offsets, dtype=torch.int32, device=device)
        self.max_len = max(end - start for start, end in pairwise(offsets))

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        assert window is None
        # Under autocast rotary positions make queries and keys wider than values.
        q, k, v = (x[0].to(value.dtype) for x in (query, key, value))
        if query.device.type == "cpu":
            lens = np.diff(self.offsets).tolist()
            parts = [
                scaled_dot_product_attention(*qkv, is_causal=True, scale=scale, enable_gqa=True)
                for qkv in zip(*(x[None].split(lens, dim=2) for x in (q, k, v)), strict=True)
            ]
            return torch.cat(parts, dim=2)[0].transpose(0, 1)
        q, k, v = (x.transpose(0, 1).contiguous() for x in (q, k, v))
        sizes = self.starts, self.starts, self.max_len, self.max_len
        # Where torch does not ask for it, fewer heads of keys than of queries need no leave.
        options: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}
        output = varlen_attn(q, k, v, *sizes, scale=scale, window_size=(-1, 0), **options)
        assert isinstance(output, Tensor)
        return output.to(query.dtype)


def comb(seed: int, num_leaves: int, prompt_len: int, segment_len: int) -> Tree:
    """A tree whose one long path drops a leaf after each of its segments, which are half as long as a leaf."""
    rng = np.random.default_rng(seed)

    def ids(count: int) -> np.ndarray:
        return rng.integers(1, 900, count).astype(np.int32)

    tree, parent = Tree.from_prompt("check", ids(prompt_len), seed), 0
    for _ in range(num_leaves):
        tree.add(Node(parent, ids(segment_len), np.zeros(segment_len, np.float32), 0, StopReason.LENGTH))
        if len(tree.leaves()) < num_leaves:
            parent = tree.add(Node(parent, ids(segment_len // 2), np.zeros(segment_len // 2, np.float32), 0))
    return tree


def gradients(model: PreTrainedModel, scorer: Scorer, parts: list[PackedTree], together: bool = False) -> Tensor:
    """Of the sum of all targets' log-probabilities, each times the sum of the weights of the leaves below it.

    together: all parts in one forward.
    """
    model.zero_grad(set_to_none=True)
    for batch in [collate(parts)] if together else [collate([part]) for part in parts]:
        packed = batch.packed
        weights = torch.from_numpy(packed.sum_over_leaves(packed.leaf_advantages).astype(np.float32)).to(model.device)
        (scorer(batch).policy_logprobs * weights).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
