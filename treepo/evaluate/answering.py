"""Sampling answers to problems, verifying them and measuring their cost."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice

import numpy as np

from treepo.data.problem import Decode, Outcome, Problem, Task, Verdict, bounded
from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.engine.base import Engine, SamplingParams
from treepo.envs.transcript import TurnText, transcript
from treepo.evaluate.estimates import EstimateSettings, aggregate
from treepo.evaluate.records import AnswerRecord, Cost, to_table
from treepo.evaluate.results import Result
from treepo.evaluate.votes import vote_classes
from treepo.grow.builder import GrowthRules
from treepo.grow.sampler import TreeSampler
from treepo.grow.turns import TurnRules
from treepo.tree import Tree
from treepo.utils.signals import PhaseCallback, no_progress
from treepo.verify.rewards import (
    NO_STATE,
    Reward,
    ScoredLeaves,
    TrainerState,
    VerifiedTree,
    component_metrics,
    is_correctness,
    score_trees,
    verify_trees,
)


def answer_records(
    task: Task, answered: Sequence[VerifiedTree], decode: Decode, *, model: str, setting: str
) -> list[AnswerRecord]:
    """One record per leaf of each tree, in the order of `Tree.leaves`; the task says which answers share a vote.

    Where an environment rewards and nothing is verified, `correct` is its reward, and the last turn the answer.
    """
    turns = [[transcript(one.tree, leaf, decode) for leaf in one.tree.leaves()] for one in answered]
    extracted = [
        [_answer(verdict, own) for verdict, own in zip(one.verdicts, of_tree, strict=True)]
        for one, of_tree in zip(answered, turns, strict=True)
    ]
    is_verified = any(verdict.outcome is not Outcome.UNVERIFIED for one in answered for verdict in one.verdicts)
    # Where nothing is verified, nobody knows more than that texts are equal.
    votes_of = vote_classes(task, extracted) if is_verified else extracted
    found = zip(answered, turns, extracted, votes_of, strict=True)
    return [
        replace(record, extracted_answer=answer, vote=vote)
        for one, of_tree, answers, votes in found
        for record, answer, vote in zip(_records(one, of_tree, model, setting), answers, votes, strict=True)
    ]


def _answer(verdict: Verdict, turns: Sequence[TurnText]) -> str | None:
    """What the verifier found, or where nothing is verified the last turn of the model."""
    if verdict.outcome is not Outcome.UNVERIFIED or not turns:
        return verdict.extracted_answer
    return bounded(turns[-1].text) or None


def _records(
    verified: VerifiedTree, turns: Sequence[Sequence[TurnText]], model: str, setting: str
) -> list[AnswerRecord]:
    leaves = zip(verified.trajectories, verified.responses, verified.verdicts, turns, strict=True)
    problem = verified.problem
    return [
        AnswerRecord(
            model=model,
            setting=setting,
            dataset=problem.dataset,
            problem=problem.id,
            sample=i,
            prompt=problem.prompt,
            ground_truth=problem.ground_truth,
            response=response,
            extracted_answer=None,
            vote=None,
            correct=_total(own) if own and verdict.outcome is Outcome.UNVERIFIED else verdict.correct,
            outcome=verdict.outcome.value,
            num_tokens=len(trajectory.sampled_ids),
            stop=trajectory.stop.value,
            seed=verified.tree.nodes[trajectory.leaf].seed,
            environment_reward=_total(own) if own else None,
            turns=json.dumps([asdict(turn) for turn in own], ensure_ascii=False) if own else None,
        )
        for i, (trajectory, response, verdict, own) in enumerate(leaves)
    ]


def _total(turns: Sequence[TurnText]) -> float:
    """What the environment gave over all turns."""
    return float(sum(turn.reward or 0.0 for turn in turns))


def grow_in_parts(
    sampler: TreeSampler, problems: Sequence[Problem], seed: int, num_together: int = 32
) -> Iterator[tuple[list[Problem], list[Tree]]]:
    """Grow a tree for each problem and yield (problems, their trees) as they are done, `num_together` at a time.

    A tree depends on the seed, its problem and the model alone, so that what was done before need not be asked again.
    """
    trees = sampler.grow(problems, seed)
    while part := list(islice(trees, num_together)):
        yield [problems[i] for i, _ in part], [tree for _, tree in part]


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


SAMPLED, GREEDY = "sampled", "greedy"
"""The `setting` of answers during training."""

AnswersCallback = Callable[[Sequence[AnswerRecord]], None]
"""Takes all answers of an evaluation."""


def ignore_answers(_answers: Sequence[AnswerRecord]) -> None:
    """An AnswersCallback."""


@dataclass(frozen=True)
class Validation:
    """The problems of every evaluation during training, and how they are sampled.

    num_samples: independent answers per problem at temperature 1, beside one greedy answer; response_len: most tokens
    of each. Every evaluation uses the same seed. processes: those that share the problems. reward: what else to measure
    of the answers at temperature 1. state: how far the run is, for rewards that change with it. repetition_penalty: of
    all answers, see SamplingParams. turns: how answers go on after EOS, as in training.
    """

    task: Task
    problems: Sequence[Problem]
    decode: Decode
    response_len: int
    num_samples: int
    seed: int
    processes: DistContext = SINGLE_PROCESS
    reward: Reward | None = None
    state: TrainerState = NO_STATE
    repetition_penalty: float = 1.0
    turns: TurnRules | None = None

    def metrics(
        self,
        engine: Engine,
        growing: Callable[[], AbstractContextManager[object]] = nullcontext,
        progress: PhaseCallback = no_progress,
        on_answers: AnswersCallback = ignore_answers,
    ) -> dict[str, float]:
        """eval/avg and eval/greedy; with several samples also eval/maj and eval/pass, of num_samples answers; with
        several datasets also eval/DATASET/avg and eval/DATASET/greedy. With a reward eval/reward/mean, and
        eval/reward/COMPONENT; without a verifier these alone. Empty without problems.

        growing: a context that is entered while answers are sampled. progress: called with answers of this process.
        on_answers: called on the first process.
        """
        if not self.problems:
            return {}
        with self.processes.synced_errors(), growing():
            num_own = len(self.processes.shard(range(len(self.problems))))
            num_sampled, total = num_own * self.num_samples, num_own * (self.num_samples + 1)
            sampled = self.sample(engine, self.num_samples, 1.0, lambda done, _: progress("evaluating", done, total))
            greedy = self.sample(engine, 1, 0.0, lambda done, _: progress("evaluating", num_sampled + done, total))
            own = (
                answer_records(self.task, sampled, self.decode, model="", setting=SAMPLED),
                answer_records(self.task, greedy, self.decode, model="", setting=GREEDY),
            )
            scored = self._scored(sampled)
        found, rewards = self.processes.gather(own), self.processes.gather(scored)
        metrics: dict[str, float] = {}
        if found:
            on_answers([record for parts in found for part in parts for record in part])
            metrics = self._metrics(found) | _mean_rewards([one for part in rewards or [] for one in part])
        return self.processes.broadcast(metrics)

    def _scored(self, sampled: Sequence[VerifiedTree]) -> list[ScoredLeaves]:
        """The rewards of answers, where they say more than accuracy does."""
        if self.reward is None or is_correctness(self.reward):
            return []
        return score_trees(self.reward, sampled, self.response_len, self.state)

    def _metrics(self, found: Sequence[tuple[list[AnswerRecord], list[AnswerRecord]]]) -> dict[str, float]:
        """The metrics of the answers of all processes; none if they are not verified."""
        if all(record.outcome == Outcome.UNVERIFIED.value for parts in found for part in parts for record in part):
            return {}
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

    def sample(
        self,
        engine: Engine,
        num_samples: int,
        temperature: float,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[VerifiedTree]:
        """Sample and verify answers to this process's share of the problems; progress: see `TreeSampler.grow`."""
        rules = GrowthRules.star(num_samples, self.response_len, self.decode, self.task.answers)
        rules = replace(rules, turns=self.turns)
        sampling = SamplingParams(temperature, repetition_penalty=self.repetition_penalty)
        # Training warns of the chat template.
        sampler = TreeSampler(engine, rules, sampling, is_chat_checked=True)
        own = self.processes.shard(range(len(self.problems)))
        grown = list(sampler.grow(self.problems, self.seed, own, progress))
        asked, trees = [self.problems[i] for i, _ in grown], [tree for _, tree in grown]
        return verify_trees(self.task, asked, trees, self.decode)


def _mean_rewards(scored: Sequence[ScoredLeaves]) -> dict[str, float]:
    """eval/reward/*: means over the answers that have a reward."""
    known = [value for one in scored for value in one.rewards[~np.isnan(one.rewards)]]
    if not known:
        return {}
    components = {f"eval/{name}": value for name, value in component_metrics(scored).items()}
    return components | {"eval/reward/mean": float(np.mean(known))}


def _result(setting: str, num_samples: int, records: list[AnswerRecord]) -> Result:
    estimates = EstimateSettings(pass_ks=(num_samples,), num_resamples=1)
    (result,) = aggregate(to_table(records), {("", setting): Cost()}, estimates)
    return result


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
    validation = Validation(
        task=task,
        problems=problems,
        decode=decode,
        response_len=response_len,
        num_samples=num_samples,
        seed=seed,
    )
    answered = validation.sample(engine, num_samples, temperature)
    return float(np.mean([verdict.correct for one in answered for verdict in one.verdicts]))
