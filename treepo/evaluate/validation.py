"""Figures of held-out problems for a run's metrics."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from treepo.data.problem import Decode, Problem, Task
from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.engine.base import Engine, SamplingParams
from treepo.evaluate.answering import verify_answers
from treepo.evaluate.records import AnswerRecord, Cost, to_table
from treepo.evaluate.results import EstimateSettings, Result, results
from treepo.grow.builder import GrowthRules
from treepo.grow.sampler import TreeSampler

SAMPLED, GREEDY = "sampled", "greedy"


@dataclass(frozen=True)
class Validation:
    """What is asked again at every evaluation, and how.

    num_samples: independent answers per problem at temperature 1, beside one likeliest answer; response_len: most
    tokens of each. The same seed draws the same numbers every time. processes: those that share the problems.
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
        """eval/avg, eval/greedy; with several samples eval/maj and eval/pass, of num_samples answers; avg and greedy by
        set, eval/SET/avg, if there are several. Empty without problems. growing: entered while they are answered."""
        if not self.problems:
            return {}
        with self.processes.synced_errors(), growing():
            own = self._answers(engine, SAMPLED, self.num_samples, 1.0), self._answers(engine, GREEDY, 1, 0.0)
        found = self.processes.gather(own)
        return self.processes.broadcast(self._figures(found) if found else {})

    def _figures(self, found: Sequence[tuple[list[AnswerRecord], list[AnswerRecord]]]) -> dict[str, float]:
        """Of the answers of all processes."""
        sampled = _result(SAMPLED, self.num_samples, [record for part, _ in found for record in part])
        greedy = _result(GREEDY, 1, [record for _, part in found for record in part])
        metrics = {"eval/avg": sampled.overall.avg.value, "eval/greedy": greedy.overall.avg.value}
        if self.num_samples > 1:
            metrics["eval/maj"] = sampled.overall.maj.value
            metrics["eval/pass"] = sampled.overall.pass_at[self.num_samples].value
        if len(sampled.sets) > 1:
            for name, result in (("avg", sampled), ("greedy", greedy)):
                metrics |= {f"eval/{s.source}/{name}": s.avg.value for s in result.sets}
        return metrics

    def _answers(self, engine: Engine, setting: str, num_samples: int, temperature: float) -> list[AnswerRecord]:
        """To this process's share of the problems."""
        rules = GrowthRules.star(num_samples, self.response_len, self.decode)
        sampler = TreeSampler(engine, rules, SamplingParams(temperature))
        chosen = self.processes.shard(range(len(self.problems)))
        grown = [(self.problems[i], tree) for i, tree in sampler.grow(self.problems, self.seed, chosen)]
        return [r for one in verify_answers(self.task, grown, self.decode) for r in one.records("", setting)]


def _result(setting: str, num_samples: int, records: list[AnswerRecord]) -> Result:
    estimates = EstimateSettings(pass_ks=(num_samples,), num_resamples=1)
    (result,) = results(to_table(records), {("", setting): Cost()}, estimates)
    return result
