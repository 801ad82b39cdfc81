"""`treepo watch`: a run as it goes on, in the terminal or as a page on this machine."""

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live

from treepo.report.live.follow import MetricsFollower
from treepo.report.live.lines import step_lines
from treepo.report.live.screen import Screen, head
from treepo.report.live.shown import NAMES
from treepo.report.live.state import RunFolder

INTERVAL_S = 1.0
"""Between two looks at the folder."""


def watch(path: Path, console: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show the run in a folder until it is complete; a folder that is not there yet, or empty, is waited for.

    Raises ValueError if the folder holds something else, or has files that cannot be read.
    """
    folder = RunFolder(path, MetricsFollower(path / "metrics.jsonl", NAMES))
    if console.is_terminal and not console.is_dumb_terminal:
        _show(folder, console, sleep)
    else:
        _tell(folder, console, sleep)


def _show(folder: RunFolder, console: Console, sleep: Callable[[float], None]) -> None:
    state, _ = folder.read()
    with Live(Screen(state), console=console, auto_refresh=False) as live:
        while not state.is_complete:
            sleep(INTERVAL_S)
            state, _ = folder.read()
            live.update(Screen(state), refresh=True)


def _tell(folder: RunFolder, console: Console, sleep: Callable[[float], None]) -> None:
    """A line for the last step there is, and one for each that comes."""

    def say(line: str) -> None:
        console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    state, _ = folder.read()
    if not state.is_complete:
        say(head(state))
    num_known = num_told = max(len(state.log) - 1, 0)
    while True:
        for line in step_lines(state, num_known, num_told):
            say(line)
        if state.is_complete:
            return
        sleep(INTERVAL_S)
        num_told = len(state.log)
        state, num_known = folder.read()
