"""Aggregates stored answers into results: per model, sampling setting and dataset."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from treepo.evaluate.estimates import avg_at_k, maj_at_k, mean_with_interval, pass_at_k
from treepo.evaluate.records import Cost, ProblemKey
from treepo.evaluate.results import OVERALL, Count, DatasetResult, Estimate, Gain, Result
from treepo.utils.rng import derive_seed


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
