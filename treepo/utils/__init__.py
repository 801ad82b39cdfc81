"""Files, random streams, signals, text."""

from collections.abc import Callable

ProgressCallback = Callable[[int, int, float], None]
"""Called with (units done, units in all, a value to show, such as a loss, a reward or seconds)."""
