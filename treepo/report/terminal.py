"""Training and progress in the terminal, in lines of at most 80 columns."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from treepo.report.run_log import Metrics
from treepo.utils import ProgressCallback
from treepo.utils.text import sanitize

PHASES = ("grow", "verify", "pack", "entropies", "update")
"""Phases with room in the line; entropies are computed only at some steps."""


def step_lines(step: int, metrics: Metrics) -> list[str]:
    """Reward, accuracy, trees trained on, trajectories and tokens per second; held-out accuracy and out of memory, if
    they occur, in lines of their own."""
    parts = [
        f"step {step:3d}",
        f"reward {metrics['reward/mean']:.3f}",
        f"acc {metrics['accuracy']:.0%}",
        f"trees {metrics['problems/trained']:.0f}/{metrics['problems/grown']:.0f}",
        f"{_short(metrics['time/trajectories_per_s'])} traj/s",
        f"{_short(metrics['time/tokens_per_s'])} tok/s",
    ]
    lines = ["  ".join(parts)]
    if "eval/avg" in metrics:
        lines.append(f"          held out {metrics['eval/avg']:.1%} (greedy {metrics['eval/greedy']:.1%})")
    if metrics.get("update/num_oom"):
        limit = metrics["update/max_tokens_per_micro_batch"]
        lines.append(f"          out of memory: train.max_tokens_per_micro_batch is {limit:.0f} from now on")
    return lines


def state_line(seconds_left: float, metrics: Metrics) -> str:
    """Time left, sharing, and the percentage of the step's time in each phase."""
    total = max(metrics["time/step_s"], 1e-9)
    taken = {name: metrics[f"time/{name}_s"] for name in PHASES if f"time/{name}_s" in metrics}
    shares = " ".join(f"{name} {100 * seconds / total:.0f}" for name, seconds in taken.items())
    return f"{duration(seconds_left)} left  sharing {_short(metrics['tokens/sharing'])}  {shares}%"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03; `?` if not finite."""
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _short(number: float) -> str:
    """At most five characters: 0.52, 3.40, 12.3, 512, 1234, 12.3k, 512k, 4.50M."""
    unit = ""
    if number >= 999.5e3:
        number, unit = number / 1e6, "M"
    elif number >= 9999.5:
        number, unit = number / 1e3, "k"
    digits = 0 if number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:.{digits}f}{unit}"


class Terminal:
    """Prints lines, progress and the results of a run."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, line: str) -> None:
        """Print one line or several, sanitized and without markup."""
        lines = "\n".join(map(sanitize, line.split("\n")))
        self.console.print(lines, markup=False, emoji=False, highlight=False, soft_wrap=True)

    @contextmanager
    def progress(self, name: str) -> Iterator[ProgressCallback]:
        """A progress bar that the yielded callback moves; a line per tenth where the output is no terminal."""
        name = sanitize(name)
        columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
        progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console)
        task = progress.add_task(name, total=None)
        tenths = 0

        def report(done: int, total: int, value: float) -> None:
            nonlocal tenths
            if not self.console.is_terminal:
                if 10 * done // max(total, 1) > tenths:
                    tenths = 10 * done // max(total, 1)
                    self.say(f"{name} ({value:.3f}) {done}/{total}")
                return
            # Started only here: nothing is shown for work that turns out to be done already.
            progress.start()
            progress.update(task, completed=done, total=total, description=f"{name} ({value:.3f})")

        try:
            yield report
        finally:
            if progress.live.is_started:
                progress.stop()

    @contextmanager
    def training(
        self, num_steps: int, clock: Callable[[], float] = perf_counter
    ) -> Iterator[Callable[[int, Metrics], None]]:
        """A line for each step that the yielded function is called with; progress in a bar below, or in lines where
        the output is no terminal. clock: in seconds."""
        columns = BarColumn(bar_width=6), MofNCompleteColumn(), TextColumn("{task.description}", markup=False)
        progress = Progress(*columns, console=self.console)
        task = progress.add_task("", total=num_steps)
        start, num_done = clock(), 0

        def show(step: int, metrics: Metrics) -> None:
            nonlocal num_done
            num_done += 1
            # By the steps of this process: a resumed run spent no time on those before.
            state = state_line((clock() - start) / num_done * (num_steps - step), metrics)
            for line in step_lines(step, metrics):
                self.say(line)
            if self.console.is_terminal:
                progress.start()
                progress.update(task, completed=step, description=state)
            else:
                self.say(f"          {step}/{num_steps} {state}")

        try:
            yield show
        finally:
            if progress.live.is_started:
                progress.stop()

    def summary(self, log: Sequence[Metrics], out: Path, next_commands: Sequence[tuple[str, str]]) -> None:
        """The table at the end of a run, and the next commands: (purpose, command)."""
        table = Table(title="Summary of the run", show_header=False, min_width=60)
        table.add_column(style="bold")
        table.add_column(justify="right")
        evaluated = [m for m in log if "eval/avg" in m]
        if evaluated:
            for name, title in (("eval/avg", "temperature 1"), ("eval/greedy", "greedy")):
                before, after = evaluated[0][name], evaluated[-1][name]
                table.add_row(f"held-out accuracy, {title}", f"{before:.1%} -> {after:.1%}")
        steps = [m for m in log if "tokens/decoded" in m]
        if steps:
            for row in _rows(steps):
                table.add_row(*row)
        self.console.print(table)
        self.say(f"Model, settings and metrics are in {out}.")
        if (out / "report.html").exists():
            self.say(f"Curves and trees, to look at in a browser: {out / 'report.html'}")
        for purpose, command in next_commands:
            self.say(f"{purpose}:  {command}")


def _rows(steps: Sequence[Metrics]) -> list[tuple[str, str]]:
    """Tokens and times of the whole run, each with its title."""

    def total(name: str) -> float:
        return sum(metrics.get(name, 0.0) for metrics in steps)

    decoded, every = total("tokens/decoded"), total("tokens/total")
    forwarded, unpacked = total("tokens/forwarded"), total("tokens/unpacked")
    saved = f" ({1 - forwarded / unpacked:.0%} fewer)" if unpacked else ""
    prefilled, cached = total("engine/prefilled"), total("engine/cached")
    known = f" ({cached / (prefilled + cached):.0%} of prefixes were known)" if prefilled + cached else ""
    return [
        ("tokens decoded", f"{decoded:,.0f}"),
        ("by sequential sampling, the same trajectories", f"{every:,.0f} ({1 - decoded / every:.0%} saved)"),
        ("tokens of prefixes the engine computed", f"{prefilled:,.0f}{known}"),
        ("tokens the update forwarded", f"{forwarded:,.0f}{saved}"),
        *((f"time to {name}", f"{total(f'time/{name}_s'):.1f} s") for name in ("grow", "verify", "pack", "update")),
        ("training time", f"{total('time/step_s'):.1f} s"),
    ]
