"""Figures of held-out problems for a run's metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

from treepo.engine import Engine, Sampling
from treepo.evaluate.answering import judge
from treepo.evaluate.records import Cost, to_table
from treepo.evaluate.results import EstimateSettings, Result, results
from treepo.grow import Rules, TreeSampler
from treepo.grow.stopping import Decode
from treepo.task.problem import Problem, Task

SAMPLED, GREEDY = "sampled", "greedy"


@dataclass(frozen=True)
class HeldOut:
    """What is asked again at every evaluation, and how.

    num_samples: independent answers per problem at temperature 1, beside one likeliest answer; response_len: most
    tokens of each. The same seed draws the same numbers every time.
    """

    task: Task
    problems: Sequence[Problem]
    decode: Decode
    response_len: int
    num_samples: int
    seed: int

    def figures(self, engine: Engine) -> dict[str, float]:
        """eval/avg, eval/greedy; with several samples eval/maj and eval/pass, of num_samples answers; avg and greedy by
        set, eval/SET/avg, if there are several. Empty without problems."""
        if not self.problems:
            return {}
        sampled = self._result(engine, SAMPLED, self.num_samples, 1.0)
        greedy = self._result(engine, GREEDY, 1, 0.0)
        figures = {"eval/avg": sampled.overall.avg.value, "eval/greedy": greedy.overall.avg.value}
        if self.num_samples > 1:
            figures["eval/maj"] = sampled.overall.maj.value
            figures["eval/pass"] = sampled.overall.pass_at[self.num_samples].value
        if len(sampled.sets) > 1:
            for name, result in (("avg", sampled), ("greedy", greedy)):
                figures |= {f"eval/{s.source}/{name}": s.avg.value for s in result.sets}
        return figures

    def _result(self, engine: Engine, setting: str, num_samples: int, temperature: float) -> Result:
        rules = Rules.star(num_samples, self.response_len, self.decode)
        sampler = TreeSampler(engine, rules, Sampling(temperature))
        grown = [(self.problems[i], tree) for i, tree in sampler.grow(self.problems, self.seed)]
        records = [r for one in judge(self.task, grown, self.decode) for r in one.records("", setting)]
        estimates = EstimateSettings(pass_ks=(num_samples,), num_resamples=1)
        (result,) = results(to_table(records), {("", setting): Cost()}, estimates)
        return result
