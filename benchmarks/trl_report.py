"""What trl_step.py says of the steps that it measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

Step = dict[str, Any]
"""What a worker prints for a training step: "seconds", "phases" (name -> seconds), "counts"."""

PARTS = {
    "generate": ("generate", "grow"),
    "score": ("old_logprobs", "score", "split", "verify", "pack"),
    "update": ("loss_and_backward", "optimizer", "update"),
}
"""What the table adds up: name -> phases of either side. The rest is small."""


@dataclass(frozen=True)
class Figures:
    """One contender: its measured steps by round, and medians (seconds) and means (counts) over all of them.

    over_trl: TRL's median time of a step over this one's; by_round: the same within each round.
    """

    name: str
    rounds: list[list[Step]]
    median_s: float
    phases_s: dict[str, float]
    counts: dict[str, float]
    over_trl: float
    by_round: list[float]


def figures(name: str, rounds: list[list[Step]], trl_rounds: list[list[Step]]) -> Figures:
    """A contender compared with TRL."""
    steps = [step for steps in rounds for step in steps]
    own, base = ([median(s["seconds"] for s in steps) for steps in both] for both in (rounds, trl_rounds))
    typical = median(s["seconds"] for s in steps)
    return Figures(
        name=name,
        rounds=rounds,
        median_s=typical,
        phases_s={phase: median(s["phases"][phase] for s in steps) for phase in steps[0]["phases"]},
        counts={count: fmean(s["counts"][count] for s in steps) for count in steps[0]["counts"]},
        over_trl=median(s["seconds"] for steps in trl_rounds for s in steps) / typical,
        by_round=[b / o for o, b in zip(own, base, strict=True)],
    )


def table(title: str, contenders: Sequence[Figures]) -> Table:
    """One row per contender, within 80 columns."""
    caption = "Seconds: medians per step; x TRL: TRL's over this one's. Counts: means per step."
    shown = Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False, padding=0)
    shown.add_column("", no_wrap=True)
    counted = ("trained", "mean\nlength", "de-\ncoded", "for-\nwarded")
    for column in ("step\ns", "gene-\nrate", "score", "up-\ndate", "x\nTRL", *counted):
        shown.add_column(column, justify="right", no_wrap=True)
    for f in contenders:
        shown.add_row(
            f.name,
            f"{f.median_s:.2f}",
            *(f"{sum(f.phases_s.get(phase, 0.0) for phase in phases):.2f}" for phases in PARTS.values()),
            f"{f.over_trl:.2f}",
            f"{f.counts['trained']:.0f}/{f.counts['trajectories']:.0f}",
            f"{f.counts['mean_len']:.1f}",
            f"{f.counts['decoded']:,.0f}",
            f"{f.counts['forwarded']:,.0f}",
        )
    return shown
