"""The terminal screen of a run: progress, latest metrics, curves and phases; and the same as lines of text."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from treepo.report.live.state import NOT_BETTER, RunState
from treepo.utils.text import duration, sanitize

DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], np.uint8)
"""The bit of each dot, row by column, above U+2800 (Unicode 16, section 21.1)."""


def curve(x: Sequence[float], y: Sequence[float], width: int, height: int) -> list[str]:
    """The curve through the points as `height` lines of `width` characters, with the lowest value at the bottom.

    x: not decreasing. Points in the same column of dots are averaged, columns without points are interpolated, and
    values that are not finite are left out.
    """
    points = np.array([x, y], float)
    known_x, known_y = points[:, np.isfinite(points).all(axis=0)]
    dots = np.zeros((4 * height, 2 * width), np.uint8)
    if len(known_x):
        rows = _rows(known_x, known_y, 2 * width, 4 * height)
        before = np.concatenate([rows[:1], rows[:-1]])
        for column, (start, end) in enumerate(zip(before, rows, strict=True)):
            # Fills the column from the height of the column before, so that steep parts have no gaps.
            first, last = (start + np.sign(end - start), end) if column else (end, end)
            dots[min(first, last) : max(first, last) + 1, column] = 1
    bits = (dots.reshape(height, 4, width, 2) * DOTS[None, :, None, :]).sum(axis=(1, 3))
    return ["".join(chr(0x2800 + int(bit)) for bit in row) for row in bits]


def _rows(x: np.ndarray, y: np.ndarray, num_columns: int, num_rows: int) -> np.ndarray:
    """The row of the curve's dot in each column, counted from the top, for the columns that the points span."""
    span = x[-1] - x[0]
    columns = np.round((x - x[0]) / span * (num_columns - 1)).astype(int) if span > 0 else np.zeros(len(x), int)
    present, which = np.unique(columns, return_inverse=True)
    means = np.bincount(which, weights=y) / np.bincount(which)
    heights = np.interp(np.arange(present[-1] + 1), present, means)
    low, high = means.min(), means.max()
    share = (heights - low) / (high - low) if high > low else np.full(len(heights), 0.5)
    return np.round((1 - share) * (num_rows - 1)).astype(int)


PHASES = ("grow", "verify", "wait", "pack", "entropies", "update")
"""The phases of a step, those that a run has; `wait`: for the trees of other processes."""


@dataclass(frozen=True)
class MetricFormat:
    """A metric with a short title and the format of its values."""

    name: str
    title: str
    format: Callable[[float], str]


def _number(value: float) -> str:
    return f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}"


CURVES = (
    MetricFormat("reward/mean", "reward", "{:.3f}".format),
    MetricFormat("eval/avg", "held-out accuracy", "{:.1%}".format),
    MetricFormat("completions/length/mean", "response length", _number),
    MetricFormat("entropy", "entropy", "{:.3f}".format),
    MetricFormat("tokens/sharing", "sharing", "{:.2f}".format),
    MetricFormat("time/trajectories_per_s", "trajectories/s", _number),
)
"""Shown as curves, in this order."""

VALUES = (
    MetricFormat("accuracy", "accuracy", "{:.1%}".format),
    MetricFormat("completions/clipped_ratio", "cut off", "{:.1%}".format),
    MetricFormat("turns/mean", "turns", "{:.1f}".format),
    MetricFormat("environment/lost", "lost to environments", "{:.1%}".format),
    MetricFormat("eval/greedy", "held-out, greedy", "{:.1%}".format),
    MetricFormat("eval/pass", "held-out pass@k", "{:.1%}".format),
    MetricFormat("problems/trained", "trees trained on", "{:.0f}".format),
    MetricFormat("update/approx_kl", "approx. KL", "{:.1e}".format),
    MetricFormat("clip_ratio/region_mean", "clip ratio", "{:.2%}".format),
    MetricFormat("update/grad_norm", "gradient norm", "{:.3f}".format),
    MetricFormat("time/tokens_per_s", "tokens/s", _number),
)
"""Shown by their latest values."""

TIMES = ("time/step_s", *(f"time/{phase}_s" for phase in PHASES))

METRICS = frozenset([shown.name for shown in (*CURVES, *VALUES)] + [*TIMES, NOT_BETTER])
"""All metrics that are read of a step."""


CURVE_WIDTH = 38
"""Smallest width of a curve if several are side by side."""

FILLS = "█▓▞▒▚░·"
"""One per phase and one for the rest of a step, distinguishable without colours."""

COLOURS = ("blue", "yellow", "red", "magenta", "cyan", "green", "default")


@dataclass(frozen=True)
class Screen:
    """The state of a run, fitted to the terminal: head, latest values, curves, phases of a step."""

    state: RunState

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lines no wider than the terminal and, if it has at least a dozen lines, no more than it has."""
        width = options.max_width
        yield Text(head(self.state), overflow="fold")
        if self.state.num_steps and not options.ascii_only:
            bar = Table.grid()
            bar.add_row(ProgressBar(self.state.num_steps, self.state.last_step or 0, width=min(width, 80)))
            yield bar
        yield Text("  ".join(value_texts(self.state, VALUES)), overflow="fold")
        if options.ascii_only:
            yield Text("\n".join(_title(self.state, shown, width) for shown in _drawn(self.state)))
        else:
            yield _curves(self.state, width, console.height)
            yield _phases(self.state, width)


def head(state: RunState) -> str:
    """The progress of the run in one line."""
    name = sanitize(state.name)
    if state.last_step is None:
        what = "waiting for the run to begin" if state.num_steps is None else f"no step of {state.num_steps} yet"
        return f"{name}  {what}"
    parts = [name, f"step {state.last_step} of {state.num_steps}"]
    if state.is_complete:
        return "  ".join([*parts, "complete"])
    if state.seconds_per_step is not None and state.seconds_left is not None:
        parts += [f"{duration(state.seconds_left)} left", f"{state.seconds_per_step:.1f} s per step"]
    return "  ".join([*parts, f"last one {duration(state.age_s)} ago"])


def value_texts(state: RunState, all_shown: Sequence[MetricFormat]) -> list[str]:
    """Title and latest value of each of these metrics that the run has."""
    values = [(shown, state.last(shown.name)) for shown in all_shown]
    return [f"{shown.title} {shown.format(value)}" for shown, value in values if value is not None]


def _drawn(state: RunState) -> list[MetricFormat]:
    return [shown for shown in CURVES if state.last(shown.name) is not None]


def _title(state: RunState, shown: MetricFormat, width: int) -> str:
    """Title and latest value and, if there is room, the lowest and the highest value."""
    values = [metrics[shown.name] for metrics in state.log if shown.name in metrics]
    title = f"{shown.title} {shown.format(values[-1])}"
    spread = f" ({shown.format(min(values))} to {shown.format(max(values))})"
    return (title + spread if len(title + spread) <= width else title)[:width]


def _curves(state: RunState, width: int, height: int) -> RenderableType:
    """As many curves side by side as fit, as high as the terminal allows."""
    drawn = _drawn(state)
    num_columns = max(1, min(3, width // (CURVE_WIDTH + 2)))
    num_rows = -(-len(drawn) // num_columns)
    curve_height = max(1, min(5, (height - 8) // max(num_rows, 1) - 1))
    curve_width = max(1, width // num_columns - 2)
    grid = Table.grid(padding=(0, 2, 0, 0))
    for start in range(0, len(drawn), num_columns):
        grid.add_row(*_cells(state, drawn[start : start + num_columns], curve_width, curve_height))
    return grid


def _cells(state: RunState, drawn: Sequence[MetricFormat], width: int, height: int) -> Iterator[Text]:
    for shown in drawn:
        having = [metrics for metrics in state.log if shown.name in metrics]
        lines = curve([m["step"] for m in having], [m[shown.name] for m in having], width, height)
        text = Text(_title(state, shown, width), style="bold", no_wrap=True)
        yield text.append("".join(f"\n{line}" for line in lines), style="not bold cyan")


def _phases(state: RunState, width: int) -> Text:
    """The share of each phase in the time of the last steps, and the rest."""
    total = sum(state.recent("time/step_s"))
    if not 0 < total < math.inf:
        return Text()
    every = {phase: sum(state.recent(f"time/{phase}_s")) / total for phase in PHASES}
    every["other"] = max(1 - sum(every.values()), 0.0)
    looks = dict(zip(every, zip(FILLS, COLOURS, strict=True), strict=True))
    shares = {phase: share for phase, share in every.items() if phase == "other" or state.recent(f"time/{phase}_s")}
    bar, legend = Text(), Text()
    edges = [round(min(sum(list(shares.values())[:i]), 1.0) * min(width, 80)) for i in range(len(shares) + 1)]
    for (phase, share), start, end in zip(shares.items(), edges[:-1], edges[1:], strict=True):
        fill, colour = looks[phase]
        bar.append(fill * (end - start), style=colour)
        legend.append(fill, style=colour).append(f" {phase} {share:.0%}  ")
    return Text.assemble(bar, "\n", legend, overflow="fold")


def step_lines(state: RunState, num_known: int, num_shown: int) -> Iterator[str]:
    """A line for each new step, and one when the run is complete.

    num_known: objects at the beginning of the log that were there before. num_shown: objects that were shown; more than
    num_known if the run was resumed from an earlier step.
    """
    if num_known < num_shown:
        went_back = int(state.log[num_known - 1]["step"]) if num_known else 0
        yield f"{sanitize(state.name)}  was resumed after step {went_back}"
    for metrics in state.log[num_known:]:
        one = RunState(state.name, state.num_steps, (metrics,))
        yield "  ".join([f"step {metrics['step']:.0f} of {state.num_steps}", *value_texts(one, (*CURVES, *VALUES))])
    if state.is_complete and num_known < len(state.log):
        yield head(state)
