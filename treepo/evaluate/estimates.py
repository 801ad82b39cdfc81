"""avg@k, pass@k, maj@k and the majority of one problem, and confidence intervals over problems."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from treepo.data.problem import Outcome
from treepo.evaluate.records import Cost, ProblemKey
from treepo.evaluate.results import OVERALL, Count, DatasetResult, Estimate, Gain, Result
from treepo.tree import LOST, StopReason
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
    votes: Sequence[str | None],
    k: int,
    rng: np.random.Generator,
    num_draws: int = 1000,
) -> float:
    """The mean value of a majority vote among k answers drawn with replacement, over `num_draws` draws.

    votes: what each answer votes for [n]. A missing answer (None) is no vote, and a draw without any vote counts as
    wrong. Answers that tie share the vote evenly. A vote is worth the mean `correct` of the answers equal to it. The
    result depends neither on the order of the answers nor on how they are named.
    Raises ValueError if k < 1, if there are no answers, or if the numbers of answers differ.
    Source: maj@16 of arXiv 2508.17445, section 4, which draws 1,000 times.
    """
    _require_answers(correct)
    if k < 1:
        raise ValueError(f"k: maj@{k} needs k >= 1")
    counts, values = _classes(correct, votes)
    num_missing = len(correct) - counts.sum()
    shares = np.append(counts, num_missing) / len(correct)
    drawn = rng.multinomial(k, shares, size=num_draws)[:, :-1]  # [D, C]
    return float(np.mean(_worth(drawn, values)))


def majority(correct: np.ndarray, votes: Sequence[str | None]) -> float:
    """The value of the majority vote of all n answers, each voting once.

    Answers that tie share the vote evenly, which is what picking one of them at random is worth on average. A missing
    answer (None) is no vote, and without any vote the majority is wrong. A vote is worth the mean `correct` of the
    answers equal to it. Raises ValueError if there are no answers, or if the numbers of answers differ.
    """
    _require_answers(correct)
    counts, values = _classes(correct, votes)
    return float(_worth(counts[None], values)[0])


def _worth(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float64 [D]: the mean of `values` [C] over the classes with the most of `counts` [D, C]; 0 without a vote."""
    most = counts.max(axis=1, initial=0, keepdims=True)
    wins = (counts == most) & (most > 0)
    return (wins @ values) / np.maximum(wins.sum(axis=1), 1)


def _classes(correct: np.ndarray, votes: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray]:
    """(counts [C], mean of `correct` [C]) of the classes of equal answers, ordered by these two alone."""
    if len(votes) != len(correct):
        raise ValueError(f"votes: {len(votes)} votes for {len(correct)} values of correct")
    members: dict[str, list[float]] = {}
    for vote, value in zip(votes, correct.tolist(), strict=True):
        if vote is not None:
            members.setdefault(vote, []).append(value)
    classes = sorted((len(v), math.fsum(v) / len(v)) for v in members.values())
    counts, values = zip(*classes, strict=True) if classes else ((), ())
    return np.array(counts, np.int64), np.array(values, np.float64)


def _require_answers(correct: np.ndarray) -> None:
    if len(correct) == 0:
        raise ValueError("correct: there are no answers")
    if not np.isfinite(correct).all():
        raise ValueError(f"correct: must be finite, got {correct[~np.isfinite(correct)][0]}")


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
            # How often each distinct value is drawn is multinomial: few values instead of many problems, and no order.
            distinct, counts = np.unique(values, return_counts=True)
            sums += rng.multinomial(len(values), counts / len(values), size=num_resamples) @ distinct
    mean = math.fsum(value for values in sets for value in values) / num_problems
    tail = (1 - level) / 2
    low, high = np.quantile(sums / num_problems, [tail, 1 - tail])
    # Sums are rounded in another order than the mean: it must not lie outside for that.
    return Estimate(mean, min(float(low), mean), max(float(high), mean))


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


COLUMNS = (*ProblemKey._fields, "vote", "correct", "outcome", "num_tokens", "stop")
"""Columns of the answers that are aggregated: no texts."""


def aggregate(
    answers: pa.Table, costs: Mapping[tuple[str, str], Cost], settings: EstimateSettings | None = None
) -> list[Result]:
    """One result per (model, setting), in the order of their first answers.

    answers: a table of COLUMNS. costs: of every (model, setting). An estimate depends only on the settings and on its
    own answers, not on their order or on other results; a gain depends on the answers of the first result too.
    Raises ValueError if a verifier's `correct` does not lie within 0 and 1; an environment's reward may be any number.
    """
    settings = settings or EstimateSettings()
    groups: dict[tuple[str, str], dict[ProblemKey, list[dict[str, Any]]]] = {}
    for row in answers.select(COLUMNS).to_pylist():
        key = ProblemKey(*(row[name] for name in ProblemKey._fields))
        groups.setdefault((key.model, key.setting), {}).setdefault(key, []).append(row)
    found: list[Result] = []
    first: dict[str, list[_Problem]] = {}
    for (model, setting), problems in groups.items():
        nums = [len(rows) for rows in problems.values()]
        k = max(nums)
        powers_of_two = sorted({*(2**i for i in range(k.bit_length())), k})
        pass_ks = [pass_k for pass_k in settings.pass_ks or powers_of_two if pass_k <= min(nums)]
        datasets: dict[str, list[_Problem]] = {}
        for key, rows in problems.items():
            problem = _Problem(key, rows, _estimates(key, rows, k, pass_ks, settings))
            datasets.setdefault(key.dataset, []).append(problem)
        result = Result(model, setting, k, *_dataset_results(datasets, pass_ks, settings), costs[model, setting])
        found.append(replace(result, gain=_gain(datasets, first, settings)) if found else result)
        first = first or datasets
    return found


@dataclass(frozen=True)
class _Problem:
    """A problem, a row of COLUMNS per answer to it, and its estimates by label."""

    key: ProblemKey
    rows: list[dict[str, Any]]
    estimates: dict[str, float]


def _estimates(
    key: ProblemKey, rows: Sequence[dict[str, Any]], k: int, pass_ks: Sequence[int], settings: EstimateSettings
) -> dict[str, float]:
    correct = np.array([row["correct"] for row in rows])
    outside = [row["correct"] for row in rows if row["outcome"] != Outcome.UNVERIFIED and not 0 <= row["correct"] <= 1]
    if outside:
        raise ValueError(f"correct: must lie within 0 and 1, got {outside[0]}")
    rng = np.random.default_rng(derive_seed(settings.seed, "maj", key.dataset, key.problem))
    votes = [row["vote"] for row in rows]
    means = {"avg": avg_at_k(correct), "majority": majority(correct, votes)}
    maj = {"maj": maj_at_k(correct, votes, k, rng, settings.num_votes)}
    return means | maj | {f"pass@{k}": pass_at_k(correct, k) for k in pass_ks}


def _dataset_results(
    datasets: dict[str, list[_Problem]], pass_ks: Sequence[int], settings: EstimateSettings
) -> tuple[tuple[DatasetResult, ...], DatasetResult]:
    """(one per dataset, all of them together)."""
    parts = tuple(_dataset_result(name, [problems], pass_ks, settings) for name, problems in datasets.items())
    if len(parts) == 1:
        # Other random draws would give the same problems slightly different intervals.
        return parts, replace(parts[0], dataset=OVERALL)
    return parts, _dataset_result(OVERALL, [datasets[name] for name in sorted(datasets)], pass_ks, settings)


def _dataset_result(
    dataset: str, parts: Sequence[Sequence[_Problem]], pass_ks: Sequence[int], settings: EstimateSettings
) -> DatasetResult:
    """Estimates over all problems of some datasets."""

    def estimate(label: str) -> Estimate:
        values = [np.array([problem.estimates[label] for problem in problems]) for problems in parts]
        return _with_interval(values, settings, "interval", dataset, label)

    rows = [row for problems in parts for problem in problems for row in problem.rows]
    outcomes = Counter(row["outcome"] for row in rows)
    return DatasetResult(
        dataset=dataset,
        num_problems=sum(map(len, parts)),
        num_answers=len(rows),
        avg=estimate("avg"),
        maj=estimate("maj"),
        majority=estimate("majority"),
        pass_at={k: estimate(f"pass@{k}") for k in pass_ks},
        tokens_per_answer=sum(row["num_tokens"] for row in rows) / len(rows),
        outcomes={outcome: outcomes[outcome] / len(rows) for outcome in sorted(outcomes)},
        clipped_ratio=sum(row["stop"] in {StopReason.LENGTH, StopReason.DEPTH} for row in rows) / len(rows),
        lost_ratio=sum(row["stop"] in LOST for row in rows) / len(rows),
    )


def _gain(
    datasets: dict[str, list[_Problem]], first: dict[str, list[_Problem]], settings: EstimateSettings
) -> Gain | None:
    pairs = []
    for name in sorted(datasets.keys() & first.keys()):
        theirs = {p.key.problem: p.estimates for p in first[name]}
        pairs.append([(p.estimates, theirs[p.key.problem]) for p in datasets[name] if p.key.problem in theirs])
    if not any(pairs):
        return None

    def estimate(label: str) -> Estimate:
        differences = [np.array([ours[label] - other[label] for ours, other in part]) for part in pairs]
        return _with_interval(differences, settings, "gain", label)

    return Gain(sum(map(len, pairs)), estimate("avg"), estimate("maj"))


def _with_interval(sets: Sequence[np.ndarray], settings: EstimateSettings, *stream: str) -> Estimate:
    rng = np.random.default_rng(derive_seed(settings.seed, *stream))
    return mean_with_interval(sets, rng, settings.num_resamples)
