"""What a training run shows in the terminal: a line per step, a bar below it, a table at its end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from treepo.printable import printable
from treepo.report.metrics import Metrics
from treepo.task.base_model import Report


class Terminal:
    """Shows the progress of one run."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, line: str) -> None:
        """Print one line, or several, as they are; what would steer the terminal as its escape sequence."""
        lines = "\n".join(map(printable, line.split("\n")))
        self.console.print(lines, markup=False, emoji=False, highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, name: str) -> Iterator[Report]:
        """A bar that moves when the yielded function is called with (done, total, loss or reward)."""
        name = printable(name)
        columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
        progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console)
        task = progress.add_task(name, total=None)

        def report(done: int, total: int, value: float) -> None:
            # Started only here: nothing is shown for work that turns out to be done already.
            progress.start()
            progress.update(task, completed=done, total=total, description=f"{name} ({value:.3f})")

        try:
            yield report
        finally:
            if progress.live.is_started:
                progress.stop()

    def step(self, step: int, metrics: Metrics) -> None:
        """One line for one training step."""
        saved = 1 - metrics["tokens/decoded"] / metrics["tokens/total"]
        self.say(
            f"step {step:3d}  reward {metrics['reward/mean']:.3f}  trained {metrics['problems/trained']:.0f} of "
            f"{metrics['problems/grown']:.0f} trees  length {metrics['response_len/mean']:.0f}  "
            f"saved {saved:.0%}  grow {metrics['time/grow_s']:.1f}s  update {metrics['time/update_s']:.1f}s"
            f"{_accuracy(metrics)}"
        )

    def summary(self, log: Sequence[Metrics], out: Path, next_commands: Sequence[tuple[str, str]]) -> None:
        """The table at the end of a run, and what to do next: (what for, command)."""
        table = Table(title="What this run did", show_header=False, min_width=60)
        table.add_column(style="bold")
        table.add_column(justify="right")
        evaluated = [m for m in log if "eval/avg" in m]
        if evaluated:
            for name, title in (("eval/avg", "temperature 1"), ("eval/greedy", "greedy")):
                before, after = evaluated[0][name], evaluated[-1][name]
                table.add_row(f"held-out accuracy, {title}", f"{before:.1%} -> {after:.1%}")
        steps = [m for m in log if "tokens/decoded" in m]
        if steps:
            for row in _token_rows(steps) + _time_rows(steps):
                table.add_row(*row)
        self.console.print(table)
        self.say(f"Model, settings and metrics are in {out}.")
        for purpose, command in next_commands:
            self.say(f"{purpose}:  {command}")


def _total(steps: Sequence[Metrics], name: str) -> float:
    return sum(m.get(name, 0.0) for m in steps)


def _token_rows(steps: Sequence[Metrics]) -> list[tuple[str, str]]:
    decoded, total = _total(steps, "tokens/decoded"), _total(steps, "tokens/total")
    forwarded, unpacked = _total(steps, "tokens/forwarded"), _total(steps, "tokens/unpacked")
    saved = f" ({1 - forwarded / unpacked:.0%} fewer)" if unpacked else ""
    prefilled, cached = _total(steps, "engine/prefilled"), _total(steps, "engine/cached")
    known = f" ({cached / (prefilled + cached):.0%} of prefixes were known)" if prefilled + cached else ""
    return [
        ("tokens decoded", f"{decoded:,.0f}"),
        ("by sequential sampling, the same trajectories", f"{total:,.0f} ({1 - decoded / total:.0%} saved)"),
        ("tokens of prefixes the engine computed", f"{prefilled:,.0f}{known}"),
        ("tokens the update forwarded", f"{forwarded:,.0f}{saved}"),
    ]


def _time_rows(steps: Sequence[Metrics]) -> list[tuple[str, str]]:
    names = ("grow", "verify", "pack", "update")
    rows = [(f"time to {name}", f"{_total(steps, f'time/{name}_s'):.1f} s") for name in names]
    return [*rows, ("training time", f"{_total(steps, 'time/step_s'):.1f} s")]


def _accuracy(metrics: Metrics) -> str:
    if "eval/avg" not in metrics:
        return ""
    return f"  held out {metrics['eval/avg']:.1%} (greedy {metrics['eval/greedy']:.1%})"
