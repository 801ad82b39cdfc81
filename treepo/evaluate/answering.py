"""Sampling answers to problems, verifying them and measuring their cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from treepo.data.problem import Decode, Problem, Task, Verdict
from treepo.engine.base import Engine
from treepo.evaluate.records import AnswerRecord, Cost
from treepo.grow.sampler import TreeSampler
from treepo.tree import Trajectory, Tree
from treepo.verify.rewards import verify_trees


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
            dataset=self.problem.dataset,
            problem=self.problem.id,
            sample=sample,
            prompt=self.problem.prompt,
            ground_truth=self.problem.ground_truth,
            response=response,
            extracted_answer=verdict.extracted_answer,
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


def verify_answers(task: Task, grown: Sequence[tuple[Problem, Tree]], decode: Decode) -> list[Answered]:
    """Decode and judge the answers of all trees at once."""
    verified = verify_trees(task, [problem for problem, _ in grown], [tree for _, tree in grown], decode)
    return [Answered(*pair, one.responses, one.verdicts) for pair, one in zip(grown, verified, strict=True)]


class Meter:
    """Divides the work of an engine since the meter was made among the finished trees.

    Each tree is charged its own decoded tokens. Prefilled tokens and seconds are charged in proportion to those, so
    that unfinished trees are charged when they finish, or never if they are lost; the last tree is charged the rest.
    num_accelerators: devices that decode.
    """

    def __init__(self, engine: Engine, num_accelerators: int) -> None:
        self.engine = engine
        self.num_accelerators = num_accelerators
        self.start = engine.counters
        self.seconds = 0.0
        self.charged = Cost()

    def charge(self, trees: Sequence[Tree], seconds: float) -> Cost:
        """The cost of these trees; seconds: engine time since the last call."""
        self.seconds += seconds
        used, before = self.engine.counters - self.start, self.charged
        decoded = before.tokens_decoded + sum(tree.num_decoded() for tree in trees)
        share = min(1.0, decoded / used.num_decoded) if used.num_decoded else 1.0
        prefilled = max(before.tokens_prefilled, round(used.num_prefilled * share))
        wall_s = max(before.wall_s, self.seconds * share)
        self.charged = Cost(decoded, prefilled, wall_s, wall_s * self.num_accelerators)
        return Cost(
            decoded - before.tokens_decoded,
            prefilled - before.tokens_prefilled,
            wall_s - before.wall_s,
            (wall_s - before.wall_s) * self.num_accelerators,
        )
