"""avg@k, pass@k and maj@k of one problem, and confidence intervals over problems."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa

from treepo.evaluate.records import Cost, ProblemKey
from treepo.evaluate.results import OVERALL, Count, DatasetResult, Estimate, Gain, Result
from treepo.utils.numeric import derive_seed


def avg_at_k(correct: np.ndarray) -> float:
    """The mean over the n = k answers. Raises ValueError if there are none."""
    _require_answers(correct)
    return math.fsum(correct) / len(correct)


def pass_at_k(correct: np.ndarray, k: int) -> float:
    """The expected best of k answers drawn without replacement from the n.

    If c answers are right and the others wrong this is 1 - C(n - c, k) / C(n, k), the unbiased estimate of the chance
    that one of k answers is right (Chen et al. 2021, arXiv 2107.03374, eq. 1). Raises ValueError unless 1 <= k <= n.
    """
    _require_answers(correct)
    if not 1 <= k <= len(correct):
        raise ValueError(f"k: pass@{k} needs 1 <= k <= n, there are n = {len(correct)} answers")
    values, counts = np.unique(correct, return_counts=True)
    num_up_to = [0, *np.cumsum(counts).tolist()]
    # Quotients of whole numbers are rounded once, however large they are: nothing cancels or overflows.
    num_sets = math.comb(len(correct), k)
    chances = [(math.comb(top, k) - math.comb(below, k)) / num_sets for below, top in pairwise(num_up_to)]
    return math.fsum(value * chance for value, chance in zip(values.tolist(), chances, strict=True))


def maj_at_k(
    correct: np.ndarray,
    extracted_answers: Sequence[str | None],
    k: int,
    rng: np.random.Generator,
    num_draws: int = 1000,
) -> float:
    """The mean value of a majority vote among k answers drawn with replacement, over `num_draws` draws.

    extracted_answers: the answers as text [n]; equal texts are the same vote. A missing answer (None) is no vote, and a
    draw without any vote counts as wrong. Answers that tie share the vote evenly. A vote is worth the mean `correct` of
    the answers equal to it. The result depends neither on the order of the answers nor on how they are named.
    Raises ValueError if k < 1, if there are no answers, or if the numbers of answers differ.
    Source: maj@16 of arXiv 2508.17445, section 4, which draws 1,000 times.
    """
    _require_answers(correct)
    if k < 1:
        raise ValueError(f"k: maj@{k} needs k >= 1")
    if len(extracted_answers) != len(correct):
        raise ValueError(f"extracted_answers: {len(extracted_answers)} answers for {len(correct)} values of correct")
    counts, values = _classes(correct, extracted_answers)
    num_missing = len(correct) - counts.sum()
    shares = np.append(counts, num_missing) / len(correct)
    votes = rng.multinomial(k, shares, size=num_draws)[:, :-1]  # [D, C]
    most = votes.max(axis=1, initial=0, keepdims=True)
    wins = (votes == most) & (most > 0)
    worth = (wins @ values) / np.maximum(wins.sum(axis=1), 1)
    return float(np.mean(worth))


def _classes(correct: np.ndarray, extracted_answers: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray]:
    """(counts [C], mean of `correct` [C]) of the classes of equal answers, ordered by these two alone."""
    members: dict[str, list[float]] = {}
    for answer, value in zip(extracted_answers, correct.tolist(), strict=True):
        if answer is not None:
            members.setdefault(answer, []).append(value)
    classes = sorted((len(v), math.fsum(v) / len(v)) for v in members.values())
    counts, values = zip(*classes, strict=True) if classes else ((), ())
    return np.array(counts, np.int64), np.array(values, np.float64)


def _require_answers(correct: np.ndarray) -> None:
    if len(correct) == 0:
        raise ValueError("correct: there are no answers")
    is_inside = (correct >= 0) & (correct <= 1)
    if not np.all(is_inside):
        raise ValueError(f"correct: must lie within 0 and 1, got {correct[~is_inside][0]}")


LEVEL = 0.95
"""Confidence level: the share of intervals that should contain the true mean."""


def mean_with_interval(
    sets: Sequence[np.ndarray], rng: np.random.Generator, num_resamples: int = 10_000, level: float = LEVEL
) -> Estimate:
    """The mean over all problems of all sets and its percentile bootstrap interval.

    sets: per set float64 [problems], one value per problem. Problems are drawn anew within their set, each with all its
    answers, so that answers to one problem need not be independent and the sets keep their sizes. Problems that all
    agree, or a single one, give an interval of no width: nothing is known of others then, it is not certainty.
    Raises ValueError if there is no problem.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    num_problems = sum(len(values) for values in sets)
    if num_problems == 0:
        raise ValueError("sets: there are no problems")
    sums = np.zeros(num_resamples)
    for values in sets:
        if len(values) > 0:
            sums += _resampled_sums(values, rng, num_resamples)
    mean = math.fsum(value for values in sets for value in values) / num_problems
    tail = (1 - level) / 2
    low, high = np.quantile(sums / num_problems, [tail, 1 - tail])
    # Sums are rounded in another order than the mean: it must not lie outside for that.
    return Estimate(mean, min(float(low), mean), max(float(high), mean))


def _resampled_sums(values: np.ndarray, rng: np.random.Generator, num_resamples: int) -> np.ndarray:
    """Sums of as many values drawn with replacement, float64 [num_resamples]."""
    # How often each distinct value is drawn is multinomial: few values instead of many problems, and no order.
    distinct, counts = np.unique(values, return_counts=True)
    return rng.multinomial(len(values), counts / len(values), size=num_resamples) @ distinct


@dataclass(frozen=True)
class EstimateSettings:
    """How answers are aggregated."""

    pass_ks: tuple[Count, ...] = ()
    """Every k of pass@k; those above the smallest number of answers to a problem are left out. If not given, the powers
    of two up to k, and k itself."""

    num_votes: Count = 1000
    """Votes drawn per problem for maj@k."""

    num_resamples: Count = 10_000
    """Bootstrap resamples for each interval."""

    seed: int = 0
    """Seed of the votes and of the resamples."""


COLUMNS = (*ProblemKey._fields, "extracted_answer", "correct", "outcome", "num_tokens")
"""Columns of the answers that are aggregated: no texts."""


def aggregate(
    answers: pa.Table, costs: Mapping[tuple[str, str], Cost], settings: EstimateSettings | None = None
) -> list[Result]:
    """One result per (model, setting), in the order of their first answers.

    answers: a table of COLUMNS. costs: of every (model, setting). An estimate depends only on the settings and on its
    own answers, not on their order or on other results; a gain depends on the answers of the first result too.
    Raises ValueError if a `correct` does not lie within 0 and 1.
    """
    settings = settings or EstimateSettings()
    problems: dict[tuple[str, str], list[_ProblemAnswers]] = {}
    for problem in _by_problem(answers):
        problems.setdefault((problem.key.model, problem.key.setting), []).append(problem)
    found: list[Result] = []
    first: dict[str, list[_ProblemEstimates]] = {}
    for (model, setting), own in problems.items():
        k, pass_ks, estimated = _estimated(own, settings)
        result = Result(model, setting, k, *_dataset_results(estimated, pass_ks, settings), costs[model, setting])
        found.append(replace(result, gain=_gain(estimated, first, settings)) if found else result)
        first = first or estimated
    return found


@dataclass(frozen=True)
class _ProblemAnswers:
    """The answers to one problem, by column."""

    key: ProblemKey
    extracted_answer: list[str | None]
    correct: list[float]
    outcome: list[str]
    num_tokens: list[int]


@dataclass(frozen=True)
class _ProblemEstimates:
    """The answers to one problem and its estimates, by label."""

    answers: _ProblemAnswers
    estimates: dict[str, float]


def _by_problem(answers: pa.Table) -> Iterable[_ProblemAnswers]:
    problems: dict[ProblemKey, _ProblemAnswers] = {}
    for *names, extracted_answer, correct, outcome, num_tokens in zip(
        *(answers[c].to_pylist() for c in COLUMNS), strict=True
    ):
        key = ProblemKey(*names)
        problem = problems.setdefault(key, _ProblemAnswers(key, [], [], [], []))
        problem.extracted_answer.append(extracted_answer)
        problem.correct.append(correct)
        problem.outcome.append(outcome)
        problem.num_tokens.append(num_tokens)
    return problems.values()


def _estimated(
    problems: Sequence[_ProblemAnswers], settings: EstimateSettings
) -> tuple[int, list[int], dict[str, list[_ProblemEstimates]]]:
    """(k, the largest number of answers to a problem; every k of pass@k; the problems by dataset)."""
    nums = [len(problem.correct) for problem in problems]
    k = max(nums)
    pass_ks = [pass_k for pass_k in settings.pass_ks or _powers_of_two(k) if pass_k <= min(nums)]
    datasets: dict[str, list[_ProblemEstimates]] = {}
    for problem in problems:
        estimates = _estimate_problem(problem, k, pass_ks, settings)
        datasets.setdefault(problem.key.dataset, []).append(_ProblemEstimates(problem, estimates))
    return k, pass_ks, datasets


def _powers_of_two(k: int) -> list[int]:
    """The powers of two up to k, and k."""
    return sorted({*(2**i for i in range(k.bit_length())), k})


def _dataset_results(
    datasets: dict[str, list[_ProblemEstimates]], pass_ks: Sequence[int], settings: EstimateSettings
) -> tuple[tuple[DatasetResult, ...], DatasetResult]:
    """(one per dataset, all of them together)."""
    parts = tuple(_dataset_result(name, [problems], pass_ks, settings) for name, problems in datasets.items())
    if len(parts) == 1:
        # Other random draws would give the same problems slightly different intervals.
        return parts, replace(parts[0], dataset=OVERALL)
    return parts, _dataset_result(OVERALL, [datasets[name] for name in sorted(datasets)], pass_ks, settings)


def _gain(
    datasets: dict[str, list[_ProblemEstimates]], first: dict[str, list[_ProblemEstimates]], settings: EstimateSettings
) -> Gain | None:
    differences: dict[str, list[np.ndarray]] = {"avg": [], "maj": []}
    for name in sorted(datasets.keys() & first.keys()):
        theirs = {p.answers.key.problem: p.estimates for p in first[name]}
        pairs = [
            (p.estimates, theirs[p.answers.key.problem]) for p in datasets[name] if p.answers.key.problem in theirs
        ]
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


def _estimate_problem(
    problem: _ProblemAnswers, k: int, pass_ks: Sequence[int], settings: EstimateSettings
) -> dict[str, float]:
    correct = np.array(problem.correct)
    rng = np.random.default_rng(derive_seed(settings.seed, "maj", problem.key.dataset, problem.key.problem))
    passed = {_pass(pass_k): pass_at_k(correct, pass_k) for pass_k in pass_ks}
    return {
        "avg": avg_at_k(correct),
        "maj": maj_at_k(correct, problem.extracted_answer, k, rng, settings.num_votes),
        **passed,
    }


def _dataset_result(
    dataset: str, parts: Sequence[Sequence[_ProblemEstimates]], pass_ks: Sequence[int], settings: EstimateSettings
) -> DatasetResult:
    """Estimates over all problems of some datasets."""

    def estimate(label: str) -> Estimate:
        rng = np.random.default_rng(derive_seed(settings.seed, "interval", dataset, label))
        values = [np.array([problem.estimates[label] for problem in problems]) for problems in parts]
        return mean_with_interval(values, rng, settings.num_resamples)

    answered = [problem.answers for problems in parts for problem in problems]
    outcomes = Counter(outcome for problem in answered for outcome in problem.outcome)
    num_answers = outcomes.total()
    return DatasetResult(
        dataset,
        len(answered),
        num_answers,
        estimate("avg"),
        estimate("maj"),
        {pass_k: estimate(_pass(pass_k)) for pass_k in pass_ks},
        sum(sum(problem.num_tokens) for problem in answered) / num_answers,
        {outcome: outcomes[outcome] / num_answers for outcome in sorted(outcomes)},
    )
