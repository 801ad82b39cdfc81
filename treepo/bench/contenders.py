"""Who is measured: trees and sequential sampling over an engine, and the plain transformers loop."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from transformers import PreTrainedModel

from treepo.bench.plain import sample_plain
from treepo.engine import Engine, EngineCounters, Sampling
from treepo.grow import Rules, TreeSampler
from treepo.learn.packing import num_distinct
from treepo.task.problem import Problem
from treepo.tree import ROOT, Node, StopReason, Tree


@dataclass(frozen=True)
class Counts:
    """What one run produced and what it took.

    num_total: tokens of all trajectories, prompts left out. num_decoded: tokens really decoded for them. num_prefilled:
    prompt tokens really computed, padding left out. num_distinct: tokens of the trajectories, each shared one counted
    once. kv_peak: most tokens whose keys and values were held at a time; None where that is not known.
    """

    num_trajectories: int
    num_total: int
    num_decoded: int
    num_prefilled: int
    num_distinct: int
    kv_peak: int | None


class Contender(Protocol):
    """One way of sampling the same number of trajectories. `run` alone is timed."""

    @property
    def name(self) -> str: ...

    def prepare(self) -> None:
        """Forget what earlier runs computed."""
        ...

    def run(self) -> None:
        """Sample all trajectories."""
        ...

    def counts(self) -> Counts:
        """Of the last run."""
        ...


@dataclass
class TreeContender:
    """Trees over an engine; sequential sampling is the tree that forks only at the root."""

    name: str
    engine: Engine
    model: PreTrainedModel
    rules: Rules
    problems: Sequence[Problem]
    temperature: float
    seed: int
    trees: list[Tree] = field(default_factory=list)
    used: EngineCounters = EngineCounters()
    peak: int = 0

    def prepare(self) -> None:
        """The engine forgets its keys and values; see Contender."""
        self.engine.update_weights(self.model)
        self.trees = []

    def run(self) -> None:
        """The same trees each time; see Contender."""
        before = self.engine.counters
        sampler = TreeSampler(self.engine, self.rules, Sampling(self.temperature))
        self.trees = [tree for _, tree in sampler.grow(self.problems, self.seed)]
        self.used = self.engine.counters - before
        self.peak = self.engine.peak_tokens

    def counts(self) -> Counts:
        """See Contender."""
        used = self.used.num_decoded, self.used.num_prefilled
        distinct = sum(map(num_distinct, self.trees))
        return Counts(*count_trajectories(self.trees), *used, distinct, self.peak)


def count_trajectories(trees: Sequence[Tree]) -> tuple[int, int]:
    """(trajectories, their tokens without prompts)."""
    lengths = [tree.response_len(leaf) for tree in trees for leaf in tree.leaves()]
    return len(lengths), sum(lengths)


@dataclass
class PlainContender:
    """The plain transformers loop over batches of `batch` trajectories, in the order of the problems."""

    batch: int
    model: PreTrainedModel
    problems: Sequence[Problem]
    width: int
    response_len: int
    temperature: float
    eos_ids: tuple[int, ...]
    responses: list[np.ndarray] = field(default_factory=list)

    @property
    def name(self) -> str:
        """With its batch size."""
        return f"plain {self.batch}"

    @property
    def rows(self) -> list[Problem]:
        """The problem of each trajectory."""
        return [problem for problem in self.problems for _ in range(self.width)]

    def prepare(self) -> None:
        """See Contender."""
        self.responses = []

    def run(self) -> None:
        """See Contender."""
        prompts = [problem.prompt_ids for problem in self.rows]
        for start in range(0, len(prompts), self.batch):
            rows = prompts[start : start + self.batch]
            self.responses += sample_plain(self.model, rows, self.response_len, self.temperature, self.eos_ids)

    def counts(self) -> Counts:
        """Every row decodes until the last one of its batch has ended; see Contender."""
        prompt_lens = [len(problem.prompt_ids) for problem in self.rows]
        num_decoded, peak = 0, 0
        for start in range(0, len(self.responses), self.batch):
            part = slice(start, start + self.batch)
            size, steps = len(self.responses[part]), max(map(len, self.responses[part]))
            num_decoded += size * steps
            # The last token drawn is never fed.
            peak = max(peak, size * (max(prompt_lens[part]) + steps - 1))
        trees = stars(self.rows, self.responses)
        num_prefilled = sum(n - 1 for n in prompt_lens)
        return Counts(*count_trajectories(trees), num_decoded, num_prefilled, sum(map(num_distinct, trees)), peak)


def stars(problems: Sequence[Problem], responses: Sequence[np.ndarray]) -> list[Tree]:
    """Independent responses as trees, one per problem."""
    trees: dict[str, Tree] = {}
    below: dict[str, list[np.ndarray]] = defaultdict(list)
    for problem, response in zip(problems, responses, strict=True):
        trees.setdefault(problem.id, Tree.planted(problem.id, np.array(problem.prompt_ids, np.int32), 0))
        below[problem.id].append(response)
    for problem_id, tree in trees.items():
        for ids in below[problem_id]:
            tree.add(Node(ROOT, ids, np.zeros(len(ids), np.float32), 0, StopReason.LENGTH))
    return list(trees.values())
