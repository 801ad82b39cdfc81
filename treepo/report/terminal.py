"""Training and progress in the terminal, in lines of at most 80 columns."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from treepo.report.diagnosis import diagnose_run
from treepo.report.run_log import Metrics
from treepo.utils import ProgressCallback
from treepo.utils.text import duration, pluralize, sanitize

COUNTED = ("tokens/decoded", "tokens/total", *(f"problems/{name}" for name in ("grown", "trained", "solved", "failed")))
"""Metrics of every step that the summary is made of."""

PHASES = ("grow", "verify", "pack", "entropies", "update")
"""Phases with room in the line; entropies are computed only at some steps."""


ACCURACIES = {"eval/avg": "accuracy", "eval/greedy": "greedy", "eval/pass": "pass@{k}", "eval/maj": "maj@{k}"}
"""What an evaluation measures, by the field's names; k: answers per problem."""


def accuracy_text(metrics: Metrics, num_samples: int | None = None) -> str:
    """What an evaluation measured, in one line. num_samples: answers per problem, if it is known."""
    shown = [
        f"{label.format(k=num_samples or 'k')} {metrics[name]:.1%}"
        for name, label in ACCURACIES.items()
        if name in metrics
    ]
    return f"held-out {', '.join(shown)}"


def step_lines(step: int, metrics: Metrics, num_samples: int | None = None) -> list[str]:
    """Reward, accuracy, trees trained on, trajectories and tokens per second; held-out accuracy and out of memory, if
    they occur, in lines of their own. num_samples: see `accuracy_text`."""
    parts = [
        f"step {step:3d}",
        # Nothing has one where all trajectories are lost to their environments.
        f"reward {metrics['reward/mean']:.3f}" if "reward/mean" in metrics else "no reward",
        *([f"acc {metrics['accuracy']:.0%}"] if "accuracy" in metrics else []),
        f"trees {metrics['problems/trained']:.0f}/{metrics['problems/grown']:.0f}",
        f"{_short(metrics['time/trajectories_per_s'])} traj/s",
        f"{_short(metrics['time/tokens_per_s'])} tok/s",
    ]
    lines = ["  ".join(parts)]
    if "eval/avg" in metrics:
        lines.append(f"          {accuracy_text(metrics, num_samples)}")
    if "eval/reward/mean" in metrics:
        lines.append(f"          held-out reward {metrics['eval/reward/mean']:.3f}")
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


def _short(number: float) -> str:
    """At most five characters: 0.52, 3.40, 12.3, 512, 1234, 12.3k, 512k, 4.50M."""
    unit = ""
    if number >= 999.5e3:
        number, unit = number / 1e6, "M"
    elif number >= 9999.5:
        number, unit = number / 1e3, "k"
    digits = 0 if number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:.{digits}f}{unit}"


FIRST_LINE_S = 2.0
MAX_PAUSE_S = 60.0


class Pace:
    """When work that goes on is to be mentioned again, where a line that is written stays: after two seconds, then at
    intervals that double up to a minute."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.start = clock()
        self.due = self.start + FIRST_LINE_S

    def is_due(self) -> bool:
        """Whether a line is due now; it counts as written then."""
        now = self.clock()
        if now < self.due:
            return False
        self.due = now + min(max(now - self.start, FIRST_LINE_S), MAX_PAUSE_S)
        return True

    def left(self, done: int, total: int) -> str:
        """The time that is left at the pace so far, as text; empty while nothing is done."""
        if not done:
            return ""
        return f", {duration((self.clock() - self.start) / done * (total - done))} left"


class TrainingView:
    """A line for each step, and what goes on meanwhile: in a bar below, or in lines where the output is no terminal."""

    def __init__(
        self,
        terminal: "Terminal",
        bar: Progress,
        num_steps: int,
        clock: Callable[[], float],
        num_samples: int | None = None,
    ) -> None:
        self.terminal = terminal
        self.num_samples = num_samples
        self.bar = bar
        self.task = bar.add_task("", total=num_steps)
        self.num_steps = num_steps
        self.clock = clock
        self.start, self.num_done = clock(), 0
        self.state = ""
        self.phase, self.pace = "", Pace(clock)

    def show_step(self, step: int, metrics: Metrics) -> None:
        """Show a step that is done, with the time left by the steps of this process."""
        self.num_done += 1
        # A resumed run spent no time on the steps before.
        self.state = state_line((self.clock() - self.start) / self.num_done * (self.num_steps - step), metrics)
        self.phase = ""
        for line in step_lines(step, metrics, self.num_samples):
            self.terminal.say(line)
        if self.terminal.console.is_terminal:
            self.bar.start()
            self.bar.update(self.task, completed=step, description=self.state)
        else:
            self.terminal.say(f"          {step}/{self.num_steps} {self.state}")

    def show_phase(self, phase: str, done: int, total: int) -> None:
        """Show what goes on, once it has taken a while; a PhaseCallback."""
        if phase != self.phase:
            self.phase, self.pace = phase, Pace(self.clock)
        if self.terminal.console.is_terminal:
            # The state of the last step stays in view while phases are short.
            if not self.state or self.clock() >= self.pace.start + FIRST_LINE_S:
                self.bar.start()
                self.bar.update(self.task, description=f"{phase} {done}/{total}{self.pace.left(done, total)}")
        elif self.pace.is_due():
            self.terminal.say(f"          {phase} {done}/{total}{self.pace.left(done, total)}")


class Terminal:
    """Prints lines, progress and the results of a run."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, line: str, style: str = "") -> None:
        """Print one line or several, sanitized and without markup."""
        lines = "\n".join(map(sanitize, line.split("\n")))
        self.console.print(lines, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, first_s: float = 1.5) -> Iterator[None]:
        """Say what goes on if it takes a while, and again now and then, while work that cannot be counted is done.

        first_s: seconds until the first line.
        """
        is_over, start = Event(), perf_counter()

        def speak() -> None:
            pause = first_s
            while not is_over.wait(pause):
                self.say(f"{name} ({duration(perf_counter() - start)}) ...")
                pause = min(max(2 * pause, 10.0), MAX_PAUSE_S)

        speaker = Thread(target=speak, daemon=True)
        speaker.start()
        try:
            yield
        finally:
            is_over.set()
            speaker.join()

    @contextmanager
    def progress(self, name: str, clock: Callable[[], float] = perf_counter) -> Iterator[ProgressCallback]:
        """A progress bar that the yielded callback moves; lines now and then where the output is no terminal.

        clock: in seconds.
        """
        name = sanitize(name)
        columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
        progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console)
        task, pace = progress.add_task(name, total=None), Pace(clock)

        def report(done: int, total: int, value: float) -> None:
            if not self.console.is_terminal:
                if pace.is_due() or done == total:
                    self.say(f"{name} ({value:.3f}) {done}/{total}{pace.left(done, total) if done < total else ''}")
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
        self, num_steps: int, clock: Callable[[], float] = perf_counter, *, num_samples: int | None = None
    ) -> Iterator[TrainingView]:
        """What training shows. clock: in seconds. num_samples: answers per problem of its evaluations, for names such
        as pass@4."""
        columns = BarColumn(bar_width=6), MofNCompleteColumn(), TextColumn("{task.description}", markup=False)
        bar = Progress(*columns, console=self.console)
        try:
            yield TrainingView(self, bar, num_steps, clock, num_samples)
        finally:
            if bar.live.is_started:
                bar.stop()

    def summary(
        self,
        log: Sequence[Metrics],
        out: Path,
        next_commands: Sequence[tuple[str, str]],
        num_samples: int | None = None,
    ) -> None:
        """The table at the end of a run, what made it useless if anything did, and the next commands: (purpose,
        command). num_samples: see `accuracy_text`."""
        # All of them, unless somebody has changed the file.
        steps = [m for m in log if all(math.isfinite(m.get(name, math.nan)) for name in COUNTED)]
        findings, num_trained = diagnose_run(steps), sum(m["problems/trained"] > 0 for m in steps)
        title = "Summary of the run" if num_trained or not steps else "Nothing was learned: no step carried a signal"
        table = Table(title=title, show_header=False, min_width=60, title_style="bold red" if findings else None)
        table.add_column(style="bold")
        table.add_column(justify="right")
        for name, label in ACCURACIES.items():
            values = [f"{metrics[name]:.1%}" for metrics in log if name in metrics]
            if values:
                # Without an evaluation at the start there is nothing to compare with.
                shown = "accuracy, greedy" if name == "eval/greedy" else label.format(k=num_samples or "k")
                table.add_row(f"held-out {shown}", " -> ".join([values[0], *values[1:][-1:]]))
        if rewards := [f"{m['eval/reward/mean']:.3f}" for m in log if "eval/reward/mean" in m]:
            table.add_row("held-out reward", " -> ".join([rewards[0], *rewards[1:][-1:]]))
        if steps:
            table.add_row("steps with a signal to learn from", f"{num_trained} of {len(steps)}")
            for row in _rows(steps):
                table.add_row(*row)
        self.console.print(table)
        for finding in findings:
            self.say(f"warning: {finding}", style="red")
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
    grow_s, update_s = total("time/grow_s"), total("time/update_s")
    saved_s = grow_s * (every / max(decoded, 1) - 1) + update_s * (unpacked / max(forwarded, 1) - 1) * bool(unpacked)
    # Entropies belong to the trees that are saved, and may take as long as growing.
    phases = {"entropies": "compute entropies"} if total("time/entropies_s") else {}
    phases = {name: name for name in ("grow", "verify", "pack")} | phases | {"update": "update"}
    prefilled, cached = total("engine/prefilled"), total("engine/cached")
    known = f" ({cached / (prefilled + cached):.0%} of prefixes were known)" if prefilled + cached else ""
    return [
        ("tokens decoded", f"{decoded:,.0f}"),
        ("by sequential sampling, the same trajectories", f"{every:,.0f} ({1 - decoded / max(every, 1):.0%} saved)"),
        ("tokens of prefixes the engine computed", f"{prefilled:,.0f}{known}"),
        ("tokens the update forwarded", f"{forwarded:,.0f}{saved}"),
        *((f"time to {title}", f"{total(f'time/{name}_s'):.1f} s") for name, title in phases.items()),
        *_environment_rows(total("environment/wait_s"), total("environment/calls"), total("environment/failed_calls")),
        ("training time", f"{total('time/step_s'):.1f} s"),
        ("more without sharing, if a token took as long", f"about {max(saved_s, 0.0):.0f} s"),
    ]


def _environment_rows(wait_s: float, num_calls: float, num_failed: float) -> list[tuple[str, str]]:
    """What environments took, if there were any."""
    if not num_calls:
        return []
    failed = f", {num_failed:,.0f} of them failed" if num_failed else ""
    return [("of growing, waiting for environments", f"{wait_s:.1f} s ({pluralize(round(num_calls), 'call')}{failed})")]
