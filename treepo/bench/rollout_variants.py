"""The variants of a rollout benchmark: trees over an engine, and a plain loop with transformers alone.

The plain loop pads prompts on the left, keeps keys and values in a DynamicCache and computes the logits of the last
token only. Letters: B rows · P tokens of the longest prompt · N new tokens · V vocabulary.
"""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from treepo.bench.common import Variant
from treepo.data.problem import Decode, Problem
from treepo.engine.base import Engine, EngineCounters, SamplingParams
from treepo.grow.branching import EvenBranching, InitialFork
from treepo.grow.builder import GrowthRules
from treepo.grow.fallback import Backtrack
from treepo.grow.sampler import TreeSampler
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import StopRules
from treepo.learn.packing import num_distinct
from treepo.report.bench_results import RolloutCounts
from treepo.tasks.base import ANSWERS
from treepo.tree import ROOT, Node, StopReason, Tree

PAD_ID = 0


@torch.inference_mode()
def sample_plain(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float, eos_ids: Collection[int]
) -> list[np.ndarray]:
    """One answer per prompt, int32 [n] each: at most `max_new_tokens`, up to and including the first of `eos_ids`."""
    ids, mask = pad_left(prompts, max_new_tokens, model.device)
    num_columns = ids.shape[1]
    positions = (mask[:, :num_columns].cumsum(1) - 1).clamp_(min=0)
    cache = DynamicCache(config=model.config)
    ends = torch.tensor(sorted(eos_ids), device=model.device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=model.device)
    columns: list[Tensor] = []
    for step in range(max_new_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=mask[:, : num_columns + step],
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        ids = torch.multinomial(torch.softmax(logits.float() / temperature, dim=-1), 1)
        positions = positions[:, -1:] + 1
        columns.append(ids)
        if len(ends):
            ended |= torch.isin(ids[:, 0], ends)
            if ended.all():
                break
    return [_up_to_end(row, eos_ids) for row in torch.cat(columns, dim=1).cpu().numpy().astype(np.int32)]


def pad_left(prompts: Sequence[Sequence[int]], max_new_tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids int64 [B, P] and attention mask int64 [B, P + N], 0 for padding."""
    rows = [torch.tensor(prompt) for prompt in prompts]
    ids = pad_sequence(rows, batch_first=True, padding_value=PAD_ID, padding_side="left")
    known = [torch.ones(len(prompt) + max_new_tokens, dtype=torch.int64) for prompt in prompts]
    return ids.to(device), pad_sequence(known, batch_first=True, padding_side="left").to(device)


def _up_to_end(row: np.ndarray, eos_ids: Collection[int]) -> np.ndarray:
    ends = np.flatnonzero(np.isin(row, list(eos_ids)))
    return row[: ends[0] + 1] if len(ends) else row


def tree_rules(shape: TreeShape, fork: InitialFork, decode: Decode, *, answers_end: bool) -> GrowthRules:
    """Trees of one shape. answers_end: whether an answer ends a path; otherwise all have the full length."""
    return GrowthRules(
        shape=shape,
        initial_fork=fork,
        branching=EvenBranching(),
        fallback=Backtrack(),
        stopping=StopRules(answer="answer_and_eos" if answers_end else "never", repetition="never"),
        decode=decode,
        answers=ANSWERS,
    )


class RolloutVariant(Variant):
    """One way of sampling the same number of trajectories."""

    @abstractmethod
    def counts(self) -> RolloutCounts:
        """The counts of the last run."""


@dataclass
class TreeVariant(RolloutVariant):
    """Trees over an engine; sequential sampling is the tree that forks only at the root."""

    name: str
    problems: Sequence[Problem]
    temperature: float
    model: PreTrainedModel
    engine: Engine
    rules: GrowthRules
    seed: int
    trees: list[Tree] = field(default_factory=list)
    used: EngineCounters = EngineCounters()
    peak: int = 0

    def prepare(self) -> None:
        # With new weights the engine drops all keys and values.
        self.engine.update_weights(self.model)
        self.trees = []

    def run(self) -> None:
        before = self.engine.counters
        sampler = TreeSampler(self.engine, self.rules, SamplingParams(self.temperature))
        self.trees = [tree for _, tree in sampler.grow(self.problems, self.seed)]
        self.used = self.engine.counters - before
        self.peak = self.engine.peak_tokens

    def counts(self) -> RolloutCounts:
        return count_tokens(self.trees, self.used.num_decoded, self.used.num_prefilled, self.peak)


def count_tokens(trees: Sequence[Tree], num_decoded: int, num_prefilled: int, kv_peak: int) -> RolloutCounts:
    """The counts of a run that sampled these trees."""
    lengths = [tree.response_len(leaf) for tree in trees for leaf in tree.leaves()]
    return RolloutCounts(
        num_trajectories=len(lengths),
        num_total=sum(lengths),
        num_decoded=num_decoded,
        num_prefilled=num_prefilled,
        num_distinct=sum(map(num_distinct, trees)),
        kv_peak=kv_peak,
    )


@dataclass
class PlainVariant(RolloutVariant):
    """The plain transformers loop over batches of `batch` trajectories, in the order of the problems."""

    name: str
    problems: Sequence[Problem]
    temperature: float
    model: PreTrainedModel
    width: int
    response_len: int
    eos_ids: tuple[int, ...]
    batch: int
    responses: list[np.ndarray] = field(default_factory=list)

    @property
    def rows(self) -> list[Problem]:
        """The problem of each trajectory."""
        return [problem for problem in self.problems for _ in range(self.width)]

    def prepare(self) -> None:
        self.responses = []

    def run(self) -> None:
        prompts = [problem.prompt_ids for problem in self.rows]
        for start in range(0, len(prompts), self.batch):
            rows = prompts[start : start + self.batch]
            self.responses += sample_plain(self.model, rows, self.response_len, self.temperature, self.eos_ids)

    def counts(self) -> RolloutCounts:
        """The counts of the last run, in which every row decodes until the last one of its batch has ended."""
        prompt_lens = [len(problem.prompt_ids) for problem in self.rows]
        num_decoded, peak = 0, 0
        for start in range(0, len(self.responses), self.batch):
            part = slice(start, start + self.batch)
            size, steps = len(self.responses[part]), max(map(len, self.responses[part]))
            num_decoded += size * steps
            # The last sampled token is never fed back.
            peak = max(peak, size * (max(prompt_lens[part]) + steps - 1))
        return count_tokens(stars(self.rows, self.responses), num_decoded, sum(n - 1 for n in prompt_lens), peak)


def stars(problems: Sequence[Problem], responses: Sequence[np.ndarray]) -> list[Tree]:
    """Independent responses as trees, one per problem."""
    trees = {p.id: Tree.from_prompt(p.id, np.array(p.prompt_ids, np.int32), 0) for p in problems}
    for problem, ids in zip(problems, responses, strict=True):
        trees[problem.id].add(Node(ROOT, ids, np.zeros(len(ids), np.float32), 0, StopReason.LENGTH))
    return list(trees.values())
