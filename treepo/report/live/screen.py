"""What a run that goes on looks like in the terminal."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from treepo.printable import printable
from treepo.report.live.braille import curve
from treepo.report.live.shown import CURVES, FIGURES, PHASES, Shown, duration
from treepo.report.live.state import RunState

CURVE_WIDTH = 38
"""Fewest columns of a curve where several stand side by side."""

FILLS = "█▓▞▒▚░·"
"""Of the phases of a step and of what is left of it: told apart without colours too."""

COLOURS = ("blue", "yellow", "red", "magenta", "cyan", "green", "default")


@dataclass(frozen=True)
class Screen:
    """A run's state as it fits the terminal: head, last figures, curves, phases of a step."""

    state: RunState

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lines no wider than the terminal, and, if it has a dozen of them, no more than it has."""
        width = options.max_width
        yield Text(head(self.state), overflow="fold")
        if self.state.num_steps and not options.ascii_only:
            bar = Table.grid()
            bar.add_row(ProgressBar(self.state.num_steps, self.state.last_step or 0, width=min(width, 80)))
            yield bar
        yield Text("  ".join(figure_texts(self.state, FIGURES)), overflow="fold")
        if options.ascii_only:
            yield Text("\n".join(_title(self.state, shown, width) for shown in _drawn(self.state)))
        else:
            yield _curves(self.state, width, console.height)
            yield _phases(self.state, width)


def head(state: RunState) -> str:
    """How far the run has come, in one line."""
    name = printable(state.name)
    if state.last_step is None:
        what = "waiting for the run to begin" if state.num_steps is None else f"no step of {state.num_steps} yet"
        return f"{name}  {what}"
    parts = [name, f"step {state.last_step} of {state.num_steps}"]
    if state.is_complete:
        return "  ".join([*parts, "complete"])
    if state.seconds_per_step is not None and state.seconds_left is not None:
        parts += [f"{duration(state.seconds_left)} left", f"{state.seconds_per_step:.1f} s per step"]
    return "  ".join([*parts, f"last one {duration(state.age_s)} ago"])


def figure_texts(state: RunState, all_shown: Sequence[Shown]) -> list[str]:
    """Name and last value of each of these metrics that the run has."""
    values = [(shown, state.last(shown.name)) for shown in all_shown]
    return [f"{shown.title} {shown.written(value)}" for shown, value in values if value is not None]


def _drawn(state: RunState) -> list[Shown]:
    return [shown for shown in CURVES if state.last(shown.name) is not None]


def _title(state: RunState, shown: Shown, width: int) -> str:
    """Name and last value, and, where there is room, the lowest and the highest there were."""
    values = [metrics[shown.name] for metrics in state.log if shown.name in metrics]
    title = f"{shown.title} {shown.written(values[-1])}"
    spread = f" ({shown.written(min(values))} to {shown.written(max(values))})"
    return (title + spread if len(title + spread) <= width else title)[:width]


def _curves(state: RunState, width: int, height: int) -> RenderableType:
    """As many side by side as fit, as high as the terminal lets them be."""
    drawn = _drawn(state)
    num_columns = max(1, min(3, width // (CURVE_WIDTH + 2)))
    num_rows = -(-len(drawn) // num_columns)
    curve_height = max(1, min(5, (height - 8) // max(num_rows, 1) - 1))
    curve_width = max(1, width // num_columns - 2)
    grid = Table.grid(padding=(0, 2, 0, 0))
    for start in range(0, len(drawn), num_columns):
        grid.add_row(*_cells(state, drawn[start : start + num_columns], curve_width, curve_height))
    return grid


def _cells(state: RunState, drawn: Sequence[Shown], width: int, height: int) -> Iterator[Text]:
    for shown in drawn:
        having = [metrics for metrics in state.log if shown.name in metrics]
        lines = curve([m["step"] for m in having], [m[shown.name] for m in having], width, height)
        text = Text(_title(state, shown, width), style="bold", no_wrap=True)
        yield text.append("".join(f"\n{line}" for line in lines), style="not bold cyan")


def _phases(state: RunState, width: int) -> Text:
    """The share of the last steps' time that each phase took, and the rest."""
    total = sum(state.recent("time/step_s"))
    if not 0 < total < math.inf:
        return Text()
    every = {phase: sum(state.recent(f"time/{phase}_s")) / total for phase in PHASES}
    every["other"] = max(1 - sum(every.values()), 0.0)
    looks = dict(zip(every, zip(FILLS, COLOURS, strict=True), strict=True))
    shares = {phase: share for phase, share in every.items() if phase == "other" or state.recent(f"time/{phase}_s")}
    bar, names = Text(), Text()
    edges = [round(min(sum(list(shares.values())[:i]), 1.0) * min(width, 80)) for i in range(len(shares) + 1)]
    for (phase, share), start, end in zip(shares.items(), edges[:-1], edges[1:], strict=True):
        fill, colour = looks[phase]
        bar.append(fill * (end - start), style=colour)
        names.append(fill, style=colour).append(f" {phase} {share:.0%}  ")
    return Text.assemble(bar, "\n", names, overflow="fold")
