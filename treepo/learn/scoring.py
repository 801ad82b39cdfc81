"""Log-probabilities and entropies of packed trees under a policy, as many trees in a forward as memory allows."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.learn.logits import affordable_logits, score_targets
from treepo.learn.packing import PackedTree, pack
from treepo.model.attention import tree_attention
from treepo.model.fsdp import is_sharded, run_under_fsdp
from treepo.model.passes import run_in_step
from treepo.model.probe import vocabulary_size
from treepo.tree import Node, StopReason, Tree

TOKEN_INDICES = ("subtree_ends", "targets", "predecessors")
LEAF_INDICES = ("leaf_starts", "leaf_ends")


@dataclass(frozen=True, eq=False)
class TreeBatch:
    """Several packed trees side by side: `packed` is all of them, with indices of tokens and leaves into the batch.

    offsets: where each tree starts, and the end of the last.
    """

    offsets: list[int]
    packed: PackedTree


def collate(trees: Sequence[PackedTree]) -> TreeBatch:
    """Lay packed trees side by side."""
    token_offsets = np.cumsum([0, *(tree.num_tokens for tree in trees)])
    leaf_offsets = np.cumsum([0, *(len(tree.lens) for tree in trees)])
    offsets = dict.fromkeys(TOKEN_INDICES, token_offsets) | dict.fromkeys(LEAF_INDICES, leaf_offsets)

    def concatenated(name: str) -> np.ndarray:
        arrays = [getattr(tree, name) for tree in trees]
        if name in offsets:
            arrays = [array + offset for array, offset in zip(arrays, offsets[name], strict=False)]
        return np.concatenate(arrays)

    return TreeBatch(token_offsets.tolist(), PackedTree(**{f.name: concatenated(f.name) for f in fields(PackedTree)}))


def dummy_tree() -> PackedTree:
    """One token after another, with no weight: what a process scores that has no trees while others have some."""
    tree = Tree.from_prompt("", np.zeros(1, np.int32), 0)
    tree.add(Node(0, np.zeros(1, np.int32), np.zeros(1, np.float32), 0, StopReason.LENGTH))
    return pack(tree, np.zeros(1))


def micro_batches(trees: Sequence[PackedTree], max_tokens: int) -> list[list[int]]:
    """Which trees go together: each batch has at most `max_tokens` tokens, and all have about as many.

    A larger tree stands alone. The largest trees are dealt first, each to the batch with the fewest tokens so far (the
    longest-processing-time rule), for the smallest number of batches with which that fits.
    """
    sizes = [tree.num_tokens for tree in trees]
    largest_first = sorted(range(len(trees)), key=lambda i: -sizes[i])
    large = [[i] for i in largest_first if sizes[i] > max_tokens]
    rest = largest_first[len(large) :]
    for count in range(-(-sum(sizes[i] for i in rest) // max_tokens), len(rest) + 1):
        batches: list[list[int]] = [[] for _ in range(count)]
        loads = [0] * count
        for i in rest:
            emptiest = loads.index(min(loads))
            batches[emptiest].append(i)
            loads[emptiest] += sizes[i]
        if max(loads, default=0) <= max_tokens:
            return large + [sorted(batch) for batch in batches]
    raise AssertionError("with a batch for each tree everything fits")


def padded_batches(trees: Sequence[PackedTree], max_tokens: int) -> list[list[int]]:
    """Which trajectories go together as rows, so that each batch has at most `max_tokens` tokens with its padding.

    The longest come first, so that rows of a batch are about as long as each other; a longer one stands alone.
    """
    batches: list[list[int]] = []
    num_free_rows = 0
    for i in sorted(range(len(trees)), key=lambda i: -trees[i].num_tokens):
        if num_free_rows == 0:
            batches.append([])
            num_free_rows = max(1, max_tokens // trees[i].num_tokens)
        batches[-1].append(i)
        num_free_rows -= 1
    return batches


@dataclass(frozen=True, eq=False)
class Scores:
    """policy_logprobs [S] with gradient; entropies [S] of the distribution each target was drawn from."""

    policy_logprobs: Tensor
    entropies: Tensor


@dataclass(frozen=True)
class Scorer:
    """Scores targets under softmax(logits / temperature), the distribution they were sampled from.

    has_plain_head: whether the logits are the output embeddings' of the last hidden states (see
        `model.compatibility.has_plain_head`); if not, they are computed all at once.
    supports_tree_attention: whether the model's attention can be given a tree; if not, every tree has to be a single
        trajectory, and they are laid out as rows with padding.
    autocast: type that matrix products are computed in, or None for that of the weights.
    max_logits: logits held at a time; as many as `affordable_logits` if not given.
    processes: those that the model is sharded over, if it is.
    """

    model: PreTrainedModel
    temperature: float = 1.0
    has_plain_head: bool = True
    supports_tree_attention: bool = True
    autocast: torch.dtype | None = None
    max_logits: int | None = None
    processes: DistContext = SINGLE_PROCESS

    def __call__(self, batch: TreeBatch, entropy_has_grad: bool = False) -> Scores:
        """Score every target of a batch."""
        return Scores(*run_under_fsdp(self.model, self._scores, batch, entropy_has_grad))

    def batches(self, trees: Sequence[PackedTree], max_tokens: int) -> list[list[int]]:
        """Which trees are scored together, so that a forward has at most `max_tokens` tokens, padding included.

        Of a sharded model each process has as many batches, so that all gather its weights as often: the last ones may
        be empty, and `dummy_tree` is scored in their place.
        """
        found = micro_batches(trees, max_tokens) if self.supports_tree_attention else padded_batches(trees, max_tokens)
        if not is_sharded(self.model):
            return found
        most = max(self.processes.all_gather(len(found)))
        return found + [[] for _ in range(most - len(found))]

    def logprobs(self, trees: Sequence[PackedTree], max_tokens: int) -> list[np.ndarray]:
        """Per tree the log-probabilities of its targets, [S]."""
        return self._score_trees(trees, max_tokens, attrgetter("policy_logprobs"))

    def entropies(self, trees: Sequence[PackedTree], max_tokens: int) -> list[np.ndarray]:
        """Per tree the entropies of the distributions that its targets were drawn from, [S]."""
        return self._score_trees(trees, max_tokens, attrgetter("entropies"))

    @torch.no_grad()
    def _score_trees(
        self, trees: Sequence[PackedTree], max_tokens: int, wanted: Callable[[Scores], Tensor]
    ) -> list[np.ndarray]:
        found: dict[int, np.ndarray] = {}

        def score(indices: list[int]) -> None:
            values = wanted(self(collate([trees[i] for i in indices] or [dummy_tree()]))).cpu().numpy()
            if indices:
                bounds = np.cumsum([len(trees[i].targets) for i in indices])[:-1]
                found.update(zip(indices, np.split(values, bounds), strict=True))

        run_in_step(self.model, self.processes, self.batches(trees, max_tokens), score)
        return [found[i] for i in range(len(trees))]

    def _scores(self, batch: TreeBatch, entropy_has_grad: bool) -> tuple[Tensor, Tensor]:
        """(log-probabilities, entropies) of all targets.

        Logits that fit into memory are kept for the backward pass; else chunks of them are computed again there.
        """
        packed, device = batch.packed, self.model.device
        rows, row_of = np.unique(packed.predecessors, return_inverse=True)
        target_ids = torch.from_numpy(packed.token_ids[packed.targets]).to(device)
        with self._precision():
            features = self._features(batch, torch.from_numpy(rows).to(device))
            step = self._rows_at_a_time() if self.has_plain_head else len(rows)
            parts = []
            for first in range(0, len(rows), step):
                # Targets lie in the order of their rows.
                start, end = np.searchsorted(row_of, (first, first + step)).tolist()
                places = torch.from_numpy(row_of[start:end] - first).to(device)
                arguments = features[first : first + step], places, target_ids[start:end], entropy_has_grad
                if step < len(rows) and torch.is_grad_enabled():
                    parts.append(checkpoint(self._score_rows, *arguments, use_reentrant=False))
                else:
                    parts.append(self._score_rows(*arguments))
        logprobs, entropies = zip(*parts, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    def _score_rows(
        self, features: Tensor, places: Tensor, target_ids: Tensor, entropy_has_grad: bool
    ) -> tuple[Tensor, Tensor]:
        """(log-probabilities, entropies) of the targets, each below the row at its place."""
        head = self.model.get_output_embeddings() if self.has_plain_head else None
        logits = features if head is None else head(features)
        return score_targets(logits, places, target_ids, self.temperature, entropy_has_grad)

    def _rows_at_a_time(self) -> int:
        limit = self.max_logits
        if limit is None:
            dtype = self.autocast or self.model.dtype
            limit = affordable_logits(self.model.device, dtype, self.processes.world_size)
        return max(1, limit // vocabulary_size(self.model))

    def _features(self, batch: TreeBatch, rows: Tensor) -> Tensor:
        """[P, ·]: hidden states of the tokens at `rows`, or logits where the head is not plain."""
        packs = self.supports_tree_attention
        inputs = self._packed_inputs(batch) if packs else _padded_inputs(batch, self.model.device)
        if self.has_plain_head:
            values = self.model.base_model(**inputs, use_cache=False).last_hidden_state
        elif packs:
            return self.model(**inputs, use_cache=False, logits_to_keep=rows).logits[0]
        else:
            values = self.model(**inputs, use_cache=False).logits
        return values[0, rows] if packs else values[inputs["attention_mask"].bool()][rows]

    def _packed_inputs(self, batch: TreeBatch) -> dict[str, Any]:
        packed, model = batch.packed, self.model
        attention = tree_attention(batch.offsets, packed.subtree_ends, packed.positions, model.device, model.dtype)
        ids, positions = (torch.from_numpy(x).to(model.device) for x in (packed.token_ids, packed.positions))
        return {"input_ids": ids[None], "position_ids": positions[None], "attention_context": attention}

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.model.device.type, self.autocast) if self.autocast else nullcontext()


def _padded_inputs(batch: TreeBatch, device: torch.device) -> dict[str, Tensor]:
    """Trajectories as rows, filled up on the right."""
    lens = np.diff(batch.offsets)
    mask = np.arange(lens.max()) < lens[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = batch.packed.token_ids
    assert (batch.packed.positions == np.nonzero(mask)[1]).all(), "only single trajectories can be padded"
    return {"input_ids": torch.from_numpy(ids).to(device), "attention_mask": torch.from_numpy(mask).long().to(device)}
