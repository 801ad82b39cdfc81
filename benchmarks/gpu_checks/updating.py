"""Updates over packed trees: gradients, compiled graphs, the share of the peak, and memory."""

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from gpu_checks.checks import PEAK_FLOPS, Checks
from treepo.learn.packing import pack, pack_trajectories
from treepo.learn.scoring import Scorer, collate
from treepo.model.policy import recompute_activations
from treepo.tree import Node, StopReason, Tree


def update(checks: Checks) -> None:
    """Gradients of packed trees against trajectories one by one, compilations, speed and memory."""
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
    model = checks.model(torch.float32)
    recompute_activations(model)
    scorer = Scorer(model, autocast=torch.bfloat16)
    packed = [pack(comb(1, *((4, 16, 8) if checks.is_tiny else (16, 256, 330))), np.ones(4 if checks.is_tiny else 16))]
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


def gradients(model: PreTrainedModel, scorer: Scorer, parts: list[Any]) -> torch.Tensor:
    """Of the sum of all targets' log-probabilities, each times the sum of the weights of the leaves below it."""
    model.zero_grad(set_to_none=True)
    for part in parts:
        weights = torch.from_numpy(part.sum_over_leaves(part.leaf_advantages).astype(np.float32)).to(model.device)
        (scorer(collate([part])).policy_logprobs * weights).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
