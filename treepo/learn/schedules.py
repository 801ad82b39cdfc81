"""How a rate or a coefficient changes over a run."""

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def remaining(schedule: Schedule, done: int, total: int) -> float:
    """From 1 to 0, what is left of something that a schedule lowers, after `done` of `total` updates."""
    if schedule == "constant":
        return 1.0
    progress = min(done / max(total, 1), 1.0)
    return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
