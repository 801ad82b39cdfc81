"""Validation during training: accuracy on held-out problems, as metrics."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from treepo.data.problem import Decode, Problem, Task
from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.engine.base import Engine, SamplingParams
from treepo.evaluate.aggregate import EstimateSettings, aggregate
from treepo.evaluate.answering import verify_answers
from treepo.evaluate.records import AnswerRecord, Cost, to_table
from treepo.evaluate.results import Result
from treepo.grow.builder import GrowthRules
from treepo.grow.sampler import TreeSampler

SAMPLED, GREEDY = "sampled", "greedy"


def accuracy(
    engine: Engine,
    task: Task,
    problems: Sequence[Problem],
    decode: Decode,
    response_len: int,
    num_samples: int = 1,
    temperature: float = 1.0,
    seed: int = 0,
) -> float:
    """The mean reward of `num_samples` independent answers per problem; temperature 0 is greedy."""
    rules = GrowthRules.star(num_samples, response_len, decode, task.answers)
    sampler = TreeSampler(engine, rules, SamplingParams(temperature))
    grown = [(problems[i], tree) for i, tree in sampler.grow(problems, seed)]
    return float(np.mean([verdict.correct for one in verify_answers(task, grown, decode) for verdict in one.verdicts]))


@dataclass(frozen=True)
class Validation:
    """The problems of every evaluation during training, and how they are sampled.

    num_samples: independent answers per problem at temperature 1, beside one greedy answer; response_len: most tokens
    of each. Every evaluation uses the same seed. processes: those that share the problems.
    """

    task: Task
    problems: Sequence[Problem]
    decode: Decode
    response_len: int
    num_samples: int
    seed: int
    processes: DistContext = SINGLE_PROCESS

    def metrics(
        self, engine: Engine, growing: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> dict[str, float]:
        """eval/avg and eval/greedy; with several samples also eval/maj and eval/pass, of num_samples answers; with
        several datasets also eval/DATASET/avg and eval/DATASET/greedy. Empty without problems.

        growing: a context that is entered while answers are sampled.
        """
        if not self.problems:
            return {}
        with self.processes.synced_errors(), growing():
            own = self._answers(engine, SAMPLED, self.num_samples, 1.0), self._answers(engine, GREEDY, 1, 0.0)
        found = self.processes.gather(own)
        return self.processes.broadcast(self._metrics(found) if found else {})

    def _metrics(self, found: Sequence[tuple[list[AnswerRecord], list[AnswerRecord]]]) -> dict[str, float]:
        """The metrics of the answers of all processes."""
        sampled = _result(SAMPLED, self.num_samples, [record for part, _ in found for record in part])
        greedy = _result(GREEDY, 1, [record for _, part in found for record in part])
        metrics = {"eval/avg": sampled.overall.avg.value, "eval/greedy": greedy.overall.avg.value}
        if self.num_samples > 1:
            metrics["eval/maj"] = sampled.overall.maj.value
            metrics["eval/pass"] = sampled.overall.pass_at[self.num_samples].value
        if len(sampled.datasets) > 1:
            for name, result in (("avg", sampled), ("greedy", greedy)):
                metrics |= {f"eval/{s.dataset}/{name}": s.avg.value for s in result.datasets}
        return metrics

    def _answers(self, engine: Engine, setting: str, num_samples: int, temperature: float) -> list[AnswerRecord]:
        """Sample and verify answers to this process's share of the problems."""
        rules = GrowthRules.star(num_samples, self.response_len, self.decode, self.task.answers)
        sampler = TreeSampler(engine, rules, SamplingParams(temperature))
        chosen = self.processes.shard(range(len(self.problems)))
        grown = [(self.problems[i], tree) for i, tree in sampler.grow(self.problems, self.seed, chosen)]
        return [r for one in verify_answers(self.task, grown, self.decode) for r in one.records("", setting)]


def _result(setting: str, num_samples: int, records: list[AnswerRecord]) -> Result:
    estimates = EstimateSettings(pass_ks=(num_samples,), num_resamples=1)
    (result,) = aggregate(to_table(records), {("", setting): Cost()}, estimates)
    return result
