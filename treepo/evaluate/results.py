"""The results of an evaluation, as `results.json` holds them: written by `treepo eval`, read by `treepo report`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

from pydantic import Field

from treepo.evaluate.records import Cost

OVERALL = "overall"
"""The `dataset` of all datasets together."""

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Estimate:
    """A mean and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class DatasetResult:
    """Estimates for one dataset, or for all of them."""

    dataset: str
    """Label of the dataset."""

    num_problems: Count
    """Problems that were answered."""

    num_answers: int
    """Answers to all of them."""

    avg: Estimate
    """Mean of avg@k over the problems."""

    maj: Estimate
    """Mean of maj@k."""

    pass_at: dict[int, Estimate]
    """Mean of pass@k by k, for every k up to the smallest number of answers to a problem."""

    tokens_per_answer: float
    """Mean length of a response, in tokens."""

    outcomes: dict[str, float]
    """Share of the answers by outcome of the verifier, for the outcomes that occur."""


@dataclass(frozen=True)
class Gain:
    """Paired differences from the first result, over the problems that both answered.

    Answers to the same problems are compared, so the interval is narrower than those of the two estimates side by side.
    """

    num_problems: int
    """Problems that both answered."""

    avg: Estimate
    """Mean difference of avg@k."""

    maj: Estimate
    """Mean difference of maj@k, each with its own k."""


@dataclass(frozen=True)
class Result:
    """Estimates and cost of one model under one sampling setting."""

    model: str
    """Its folder or name."""

    setting: str
    """Label of the sampling setting."""

    k: int
    """The largest number of answers to a problem; avg and maj are avg@k and maj@k."""

    datasets: tuple[DatasetResult, ...]
    """One per dataset, in the order in which they were begun."""

    overall: DatasetResult
    """All problems of all datasets, each counting once; for a single dataset the same estimates as its own."""

    cost: Cost
    """The cost of decoding all answers."""

    gain: Gain | None = None
    """Against the first result; None for the first itself, and where no problem was answered by both."""

    @property
    def trajectories_per_s(self) -> float | None:
        """Answers per second of wall time; None if no time was measured."""
        return self.overall.num_answers / self.cost.wall_s if self.cost.wall_s > 0 else None


RELATIVE = ("tokens_decoded", "tokens_prefilled", "wall_s", "accelerator_s")
"""Costs that are compared with those of a model's first setting."""


def to_json(results: Sequence[Result]) -> str:
    """The fields of each Result, `trajectories_per_s` and `relative_cost`; null where there is no value."""
    rows = [
        asdict(result)
        | {
            "trajectories_per_s": result.trajectories_per_s,
            "relative_cost": relative_cost(result, first_setting(result, results)),
        }
        for result in results
    ]
    return json.dumps(rows, indent=1, allow_nan=False) + "\n"


def first_setting(result: Result, results: Sequence[Result]) -> Result:
    """The first result of the same model."""
    return next(other for other in results if other.model == result.model)


def relative_cost(result: Result, first: Result) -> dict[str, float | None]:
    """Costs per answer divided by those of `first`; None where those are zero."""
    shares = {}
    for name in RELATIVE:
        ours, theirs = (getattr(r.cost, name) / r.overall.num_answers for r in (result, first))
        shares[name] = ours / theirs if theirs > 0 else None
    return shares
