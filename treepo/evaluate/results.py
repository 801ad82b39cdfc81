"""The results of an evaluation, as `results.json` holds them: written by `treepo eval`, read by `treepo report`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

from pydantic import Field

from treepo.evaluate.records import Cost

OVERALL = "overall"
"""The `dataset` of all datasets together."""

UNVERIFIED = "unverified"
"""The outcome of answers that no verifier judged."""

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Estimate:
    """A mean and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class DatasetResult:
    """Estimates for one dataset, or for all of them.

    num_problems: problems that were answered; num_answers: answers to all of them. avg, maj: means of avg@k and maj@k
    over the problems. pass_at: mean of pass@k by k, for every k up to the smallest number of answers to a problem.
    tokens_per_answer: mean length of a response. outcomes: share of the answers by outcome of the verifier, for the
    outcomes that occur. clipped_ratio: share of the answers that were cut off. majority: mean over the problems of the
    majority of all answers, each voting once. lost_ratio: share of the answers whose environment failed. These three
    are None in results of earlier versions.
    """

    dataset: str
    num_problems: Count
    num_answers: int
    avg: Estimate
    maj: Estimate
    pass_at: dict[int, Estimate]
    tokens_per_answer: float
    outcomes: dict[str, float]
    clipped_ratio: float | None = None
    majority: Estimate | None = None
    lost_ratio: float | None = None

    @property
    def is_rewarded(self) -> bool:
        """Whether nothing was verified: the figures are means of what an environment gave."""
        return bool(self.outcomes) and set(self.outcomes) == {UNVERIFIED}


@dataclass(frozen=True)
class Gain:
    """Paired differences from the first result in avg@k and maj@k, over the problems that both answered.

    Answers to the same problems are compared, so the interval is narrower than those of the two estimates side by side.
    maj@k is taken with each result's own k.
    """

    num_problems: int
    avg: Estimate
    maj: Estimate


@dataclass(frozen=True)
class Result:
    """Estimates and cost of one model under one sampling setting.

    model: its folder or name. setting: label of the sampling setting. k: the largest number of answers to a problem;
    avg and maj are avg@k and maj@k. datasets: in the order in which they were begun. overall: all problems of all
    datasets, each counting once; for a single dataset the same estimates as its own. cost: of decoding all answers.
    gain: None for the first result itself, and where it and this one answered no problem in common.
    """

    model: str
    setting: str
    k: int
    datasets: tuple[DatasetResult, ...]
    overall: DatasetResult
    cost: Cost
    gain: Gain | None = None

    @property
    def trajectories_per_s(self) -> float | None:
        """Answers per second of wall time; None if no time was measured."""
        return self.overall.num_answers / self.cost.wall_s if self.cost.wall_s > 0 else None


def to_json(results: Sequence[Result]) -> str:
    """The fields of each Result, `trajectories_per_s` and `relative_cost`; null where there is no value."""
    rows = []
    for result in results:
        shares = relative_cost(result, first_setting(result, results))
        rows.append(asdict(result) | {"trajectories_per_s": result.trajectories_per_s, "relative_cost": shares})
    return json.dumps(rows, indent=1, allow_nan=False) + "\n"


def first_setting(result: Result, results: Sequence[Result]) -> Result:
    """The first result of the same model."""
    return next(other for other in results if other.model == result.model)


def relative_cost(result: Result, first: Result) -> dict[str, float | None]:
    """Costs per answer divided by those of `first`; None where those are zero."""
    shares = {}
    for name in asdict(result.cost):
        ours, theirs = (getattr(r.cost, name) / r.overall.num_answers for r in (result, first))
        shares[name] = ours / theirs if theirs > 0 else None
    return shares
