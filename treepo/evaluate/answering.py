"""A policy answers problems, tree by tree, and its answers are judged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from treepo.evaluate.records import AnswerRecord
from treepo.grow import TreeSampler
from treepo.grow.stopping import Decode
from treepo.task.checking.verdict import Verdict
from treepo.task.problem import Problem, Task
from treepo.tree import Trajectory, Tree


@dataclass(frozen=True, eq=False)
class Answered:
    """A problem, the tree of its answers, and per leaf the response as text and the verdict on it."""

    problem: Problem
    tree: Tree
    responses: list[str]
    verdicts: list[Verdict]

    def records(self, model: str, setting: str) -> list[AnswerRecord]:
        """One record per leaf, in the order of `Tree.leaves`."""
        leaves = zip(self.tree.trajectories(), self.responses, self.verdicts, strict=True)
        return [self._record(model, setting, i, *leaf) for i, leaf in enumerate(leaves)]

    def _record(
        self, model: str, setting: str, sample: int, trajectory: Trajectory, response: str, verdict: Verdict
    ) -> AnswerRecord:
        return AnswerRecord(
            model=model,
            setting=setting,
            source=self.problem.source,
            problem=self.problem.id,
            sample=sample,
            prompt=self.problem.prompt,
            known=self.problem.answer,
            response=response,
            given=verdict.given,
            correct=verdict.correct,
            outcome=verdict.outcome.value,
            num_tokens=len(trajectory.token_ids),
            stop=trajectory.stop.value,
            seed=self.tree.nodes[trajectory.leaf].seed,
        )


def grow_in_parts(
    sampler: TreeSampler, problems: Sequence[Problem], seed: int, num_together: int = 32
) -> Iterator[list[tuple[Problem, Tree]]]:
    """Grow a tree for each problem and yield them with their problems as they are done, `num_together` at a time.

    A tree depends on the seed, its problem and the model alone, so that what was done before need not be asked again.
    """
    trees = sampler.grow(problems, seed)
    while part := list(islice(trees, num_together)):
        yield [(problems[i], tree) for i, tree in part]


def judge(task: Task, grown: Sequence[tuple[Problem, Tree]], decode: Decode) -> list[Answered]:
    """Decode and judge the answers of all trees at once."""
    responses = [[decode(t.token_ids.tolist()) for t in tree.trajectories()] for _, tree in grown]
    asked = [(problem, text) for (problem, _), texts in zip(grown, responses, strict=True) for text in texts]
    verdicts = iter(task.judge(asked))
    return [
        Answered(problem, tree, texts, [next(verdicts) for _ in texts])
        for (problem, tree), texts in zip(grown, responses, strict=True)
    ]
