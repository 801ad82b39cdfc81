"""Files, random streams, signals, text."""

import os
from collections.abc import Callable

ProgressCallback = Callable[[int, int, float], None]
"""Called with (units done, units in all, a value to show, such as a loss, a reward or seconds)."""

GIVEN = "python:"
"""Before the name of what a program hands over, in its run's settings."""


def process_rank() -> int:
    """This process's number in the job that torchrun started, before the processes have met."""
    return int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0
