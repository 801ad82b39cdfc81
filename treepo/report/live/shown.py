"""Which metrics are shown of a run that goes on, and how their values are written."""

import math
from collections.abc import Callable
from dataclasses import dataclass

PHASES = ("grow", "verify", "wait", "pack", "entropies", "update")
"""Of a step, those that a run has; `wait`: of several processes, for the others to have grown their trees."""


@dataclass(frozen=True)
class Shown:
    """One metric: what it is called in a narrow place and how its values are written."""

    name: str
    title: str
    written: Callable[[float], str]


def _share(value: float) -> str:
    return f"{value:.1%}"


def _fraction(value: float) -> str:
    return f"{value:.3f}"


def _number(value: float) -> str:
    return f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}"


CURVES = (
    Shown("reward/mean", "reward", _fraction),
    Shown("eval/avg", "held-out accuracy", _share),
    Shown("response_len/mean", "tokens per answer", _number),
    Shown("entropy", "entropy per token", _fraction),
    Shown("tokens/sharing", "sharing", lambda value: f"{value:.2f}"),
    Shown("time/trajectories_per_s", "trajectories/s", _number),
)
"""As curves, in this order."""

FIGURES = (
    Shown("correct/mean", "right", _share),
    Shown("eval/greedy", "held out, greedy", _share),
    Shown("problems/trained", "trees trained on", lambda value: f"{value:.0f}"),
    Shown("update/kl", "KL", lambda value: f"{value:.1e}"),
    Shown("update/clip_fraction", "clipped", lambda value: f"{value:.2%}"),
    Shown("update/grad_norm", "gradient norm", _fraction),
    Shown("time/tokens_per_s", "tokens/s", _number),
)
"""As their last values."""

TIMES = ("time/step_s", *(f"time/{phase}_s" for phase in PHASES))

NAMES = frozenset([shown.name for shown in (*CURVES, *FIGURES)] + [*TIMES])
"""All that is read of a step."""


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03; `?` for what is not finite."""
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
