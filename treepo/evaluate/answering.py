"""Answers sampled and judged, and what they cost."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from treepo.data.problem import Decode, Problem, Task, Verdict
from treepo.engine.base import Engine
from treepo.errors import StoreError
from treepo.evaluate.records import AnswerRecord, Cost
from treepo.evaluate.store import replacing
from treepo.grow.sampler import TreeSampler
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
            source=self.problem.dataset,
            problem=self.problem.id,
            sample=sample,
            prompt=self.problem.prompt,
            known=self.problem.ground_truth,
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
    responses = [[decode(t.token_ids.tolist()) for t in tree.trajectories()] for _, tree in grown]
    asked = [(problem, text) for (problem, _), texts in zip(grown, responses, strict=True) for text in texts]
    verdicts = iter(task.verify(asked))
    return [
        Answered(problem, tree, texts, [next(verdicts) for _ in texts])
        for (problem, tree), texts in zip(grown, responses, strict=True)
    ]


class Meter:
    """Shares what an engine has done since the meter was made among the trees that were finished with.

    Tokens decoded are each tree's own. Tokens prefilled and seconds are shared in proportion to them, so that what
    trees still under way have used is charged with them, or not at all if they are lost, and with the last tree all is
    charged. num_accelerators: devices that decode.
    """

    def __init__(self, engine: Engine, num_accelerators: int) -> None:
        self.engine = engine
        self.num_accelerators = num_accelerators
        self.start = engine.counters
        self.seconds = 0.0
        self.charged = Cost()

    def charge(self, trees: Sequence[Tree], seconds: float) -> Cost:
        """What these trees cost; seconds: those that the engine has been at work since the last call."""
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


NUM_SAMPLED = 64
"""Numbers of each tensor that a model is recognised by."""


@dataclass(frozen=True)
class Asked:
    """A mark of the model's weights, and one of each problem: its prompt as token ids and its known answer."""

    weights: str
    problems: dict[str, str]


FILE = TypeAdapter(dict[str, Asked])


def check_asked(
    path: Path, model: str, weights: Mapping[str, Tensor], problems: Sequence[Problem], answered: Collection[str]
) -> None:
    """Compare with what the file says the model was asked before, and note what it is about to be asked.

    answered: the sets and ids, as `problem_key`, of problems with answers of this model; if there are none nothing
    binds. Raises StoreError naming what has changed.
    """
    try:
        known = FILE.validate_json(path.read_bytes()) if path.exists() else {}
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StoreError(f"out: {str(path)!r} cannot be read: {reason}") from error
    now = Asked(weights_mark(weights), {problem_key(p.dataset, p.id): problem_mark(p) for p in problems})
    before = known.get(model)
    if before is not None and answered:
        if before.weights != now.weights:
            raise StoreError(f"out: {str(path.parent)!r} holds answers of {model!r} from before its weights changed")
        for key in answered & now.problems.keys():
            if before.problems.get(key) != now.problems[key]:
                raise StoreError(
                    f"out: {str(path.parent)!r} holds answers to {key!r} from before its prompt, its known answer or "
                    f"the model's tokenizer changed"
                )
        now = Asked(now.weights, before.problems | now.problems)
    with replacing(path) as unfinished:
        unfinished.write_bytes(FILE.dump_json(known | {model: now}))


def problem_key(source: str, problem_id: str) -> str:
    """What tells a problem from others of an evaluation."""
    return json.dumps([source, problem_id])


def problem_mark(problem: Problem) -> str:
    """Differs for another prompt or another known answer."""
    return _digest([json.dumps([list(problem.prompt_ids), problem.ground_truth]).encode()])


def weights_mark(weights: Mapping[str, Tensor]) -> str:
    """Differs, in practice, for other weights: a digest of some numbers of each tensor, wherever they came from."""
    parts = []
    for name, tensor in sorted(weights.items()):
        flat = tensor.detach().flatten()
        sampled = flat[:: max(1, len(flat) // NUM_SAMPLED)].float().cpu().numpy()
        parts += [name.encode(), str(tuple(tensor.shape)).encode(), sampled.tobytes()]
    return _digest(parts)


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
