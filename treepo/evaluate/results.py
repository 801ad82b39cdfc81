"""From kept answers to figures: per model, sampling setting and set."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import Field

from treepo.evaluate.estimates import Estimate, avg_at_k, maj_at_k, mean_with_interval, pass_at_k
from treepo.evaluate.records import Cost, ProblemKey
from treepo.utils.rng import derive_seed

OVERALL = "overall"
"""The `source` of all sets together."""

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class EstimateSettings:
    """What is estimated from the answers."""

    pass_ks: tuple[Count, ...] = ()
    """Numbers of answers of which one must be right; those that some problem has not as many answers for are left out.
    If not extracted_answer, the powers of two up to k, and k itself."""

    num_votes: Count = 1000
    """Votes drawn per problem for maj@k."""

    num_resamples: Count = 10_000
    """Sets of problems drawn for each interval."""

    seed: int = 0
    """Seed of both."""


@dataclass(frozen=True)
class SetResult:
    """Figures of one set, or of all."""

    source: str
    """Label of the set."""

    num_problems: int
    """Problems answered."""

    num_answers: int
    """Answers to all of them."""

    avg: Estimate
    """Mean of avg@k over the problems."""

    maj: Estimate
    """Mean of maj@k."""

    pass_at: dict[int, Estimate]
    """Mean of pass@k by k, for those k of which every problem has as many answers."""

    tokens_per_answer: float
    """Mean length of a response, in tokens."""

    outcomes: dict[str, float]
    """Share of the answers that the verifier came to each outcome with, of those that occur, by name."""


@dataclass(frozen=True)
class Gain:
    """Figures less those of the first result, problem by problem, over the problems that both were asked.

    Answers to the same problems are compared, so the interval is narrower than those of the two figures side by side.
    """

    num_problems: int
    """Problems that both were asked."""

    avg: Estimate
    """Mean difference of avg@k."""

    maj: Estimate
    """Mean difference of maj@k, each with its own k."""


@dataclass(frozen=True)
class Result:
    """Figures of one model under one sampling setting."""

    model: str
    """Its folder or name."""

    setting: str
    """Label of the sampling setting."""

    k: int
    """Answers to each problem, the most there are; avg and maj are avg@k and maj@k."""

    sets: tuple[SetResult, ...]
    """Set by set, in the order in which they were begun."""

    overall: SetResult
    """All problems of all sets, each counting once; of a single set the same figures and intervals as its own."""

    cost: Cost
    """What decoding all of it took."""

    gain: Gain | None = None
    """Against the first result; None for itself, and where no problem was asked of both."""

    @property
    def trajectories_per_s(self) -> float | None:
        """Answers per second by the clock; None if no time was measured."""
        return self.overall.num_answers / self.cost.wall_s if self.cost.wall_s > 0 else None


COLUMNS = (*ProblemKey._fields, "extracted_answer", "correct", "outcome", "num_tokens")
"""Columns of answers that figures are made of: no texts."""


def results(
    answers: pa.Table, costs: Mapping[tuple[str, str], Cost], settings: EstimateSettings | None = None
) -> list[Result]:
    """Figures of each (model, setting), in the order of their first answers.

    answers: the columns COLUMNS. costs: those of every (model, setting). A figure depends on the settings and on the
    answers that it is about, neither on their order nor on what else was evaluated; a gain, on those of the first too.
    Raises ValueError if a `correct` does not lie within 0 and 1.
    """
    settings = settings or EstimateSettings()
    problems: dict[tuple[str, str], list[_Answered]] = {}
    for problem in _answered(answers):
        problems.setdefault((problem.key.model, problem.key.setting), []).append(problem)
    found: list[Result] = []
    first: dict[str, list[_Estimated]] = {}
    for (model, setting), own in problems.items():
        k, pass_ks, estimated = _estimated(own, settings)
        result = Result(model, setting, k, *_set_results(estimated, pass_ks, settings), costs[model, setting])
        found.append(replace(result, gain=_gain(estimated, first, settings)) if found else result)
        first = first or estimated
    return found


@dataclass(frozen=True)
class _Answered:
    """A problem's answers, by column."""

    key: ProblemKey
    extracted_answer: list[str | None]
    correct: list[float]
    outcome: list[str]
    num_tokens: list[int]


@dataclass(frozen=True)
class _Estimated:
    """A problem's answers and its figures, by label."""

    answered: _Answered
    figures: dict[str, float]


def _answered(answers: pa.Table) -> Iterable[_Answered]:
    problems: dict[ProblemKey, _Answered] = {}
    for *names, extracted_answer, correct, outcome, num_tokens in zip(
        *(answers[c].to_pylist() for c in COLUMNS), strict=True
    ):
        key = ProblemKey(*names)
        problem = problems.setdefault(key, _Answered(key, [], [], [], []))
        problem.extracted_answer.append(extracted_answer)
        problem.correct.append(correct)
        problem.outcome.append(outcome)
        problem.num_tokens.append(num_tokens)
    return problems.values()


def _estimated(
    problems: Sequence[_Answered], settings: EstimateSettings
) -> tuple[int, list[int], dict[str, list[_Estimated]]]:
    """(k, the most answers to a problem; the k of pass@k; the problems' figures by set)."""
    nums = [len(problem.correct) for problem in problems]
    k = max(nums)
    pass_ks = [pass_k for pass_k in settings.pass_ks or _powers_of_two(k) if pass_k <= min(nums)]
    sets: dict[str, list[_Estimated]] = {}
    for problem in problems:
        figures = _figures(problem, k, pass_ks, settings)
        sets.setdefault(problem.key.source, []).append(_Estimated(problem, figures))
    return k, pass_ks, sets


def _powers_of_two(k: int) -> list[int]:
    """Those up to k, and k."""
    return sorted({*(2**i for i in range(k.bit_length())), k})


def _set_results(
    sets: dict[str, list[_Estimated]], pass_ks: Sequence[int], settings: EstimateSettings
) -> tuple[tuple[SetResult, ...], SetResult]:
    """(set by set, all of them)."""
    parts = tuple(_set_result(source, [estimated], pass_ks, settings) for source, estimated in sets.items())
    if len(parts) == 1:
        # Drawn anew, the same problems would have slightly different intervals.
        return parts, replace(parts[0], source=OVERALL)
    return parts, _set_result(OVERALL, [sets[source] for source in sorted(sets)], pass_ks, settings)


def _gain(
    sets: dict[str, list[_Estimated]], first: dict[str, list[_Estimated]], settings: EstimateSettings
) -> Gain | None:
    differences: dict[str, list[np.ndarray]] = {"avg": [], "maj": []}
    for source in sorted(sets.keys() & first.keys()):
        theirs = {p.answered.key.problem: p.figures for p in first[source]}
        pairs = [(p.figures, theirs[p.answered.key.problem]) for p in sets[source] if p.answered.key.problem in theirs]
        for label, values in differences.items():
            values.append(np.array([ours[label] - other[label] for ours, other in pairs]))
    num_problems = sum(map(len, differences["avg"]))
    if not num_problems:
        return None

    def estimate(label: str) -> Estimate:
        rng = np.random.default_rng(derive_seed(settings.seed, "gain", label))
        return mean_with_interval(differences[label], rng, settings.num_resamples)

    return Gain(num_problems, estimate("avg"), estimate("maj"))


def _pass(k: int) -> str:
    return f"pass@{k}"


def _figures(problem: _Answered, k: int, pass_ks: Sequence[int], settings: EstimateSettings) -> dict[str, float]:
    correct = np.array(problem.correct)
    rng = np.random.default_rng(derive_seed(settings.seed, "maj", problem.key.source, problem.key.problem))
    passed = {_pass(pass_k): pass_at_k(correct, pass_k) for pass_k in pass_ks}
    return {
        "avg": avg_at_k(correct),
        "maj": maj_at_k(correct, problem.extracted_answer, k, rng, settings.num_votes),
        **passed,
    }


def _set_result(
    source: str, sets: Sequence[Sequence[_Estimated]], pass_ks: Sequence[int], settings: EstimateSettings
) -> SetResult:
    """Figures of all problems of some sets."""

    def estimate(label: str) -> Estimate:
        rng = np.random.default_rng(derive_seed(settings.seed, "interval", source, label))
        values = [np.array([problem.figures[label] for problem in problems]) for problems in sets]
        return mean_with_interval(values, rng, settings.num_resamples)

    answered = [problem.answered for problems in sets for problem in problems]
    outcomes = Counter(outcome for problem in answered for outcome in problem.outcome)
    num_answers = outcomes.total()
    return SetResult(
        source,
        len(answered),
        num_answers,
        estimate("avg"),
        estimate("maj"),
        {pass_k: estimate(_pass(pass_k)) for pass_k in pass_ks},
        sum(sum(problem.num_tokens) for problem in answered) / num_answers,
        {outcome: outcomes[outcome] / num_answers for outcome in sorted(outcomes)},
    )
