"""`treepo watch`: follows a run in the terminal or as a page in a browser."""

import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live

from treepo.cli.common import CommandParser
from treepo.errors import SettingError
from treepo.report.live.screen import METRICS, Screen, head, step_lines
from treepo.report.live.state import MetricsFollower, RunFollower

INTERVAL_S = 1.0
"""Seconds between two looks at the folder."""


def make_parser() -> CommandParser:
    """The options of the command."""
    parser = CommandParser(
        "watch",
        "Follow a run from before its first step to its last: step and time left, latest metrics, curves, phases.",
    )
    parser.add_argument("run", nargs="?", metavar="RUN_DIR", help="folder of the run; it need not exist yet")
    parser.add_argument("--page", action="store_true", help="serve the report, kept up to date, on localhost")
    parser.add_argument("--port", type=int, help="port of the page (default: a free one)")
    return parser


def run(options: Namespace, console: Console) -> None:
    """Show the run until it is complete or, as a page, until Ctrl-C. Raises SettingError for what holds no run."""
    if not options.run:
        raise SettingError("watch", "no folder of a run given")
    if options.settings:
        raise SettingError("watch", f"a run's settings are its own, got some of {next(iter(options.settings))!a}")
    if options.port is not None and not options.page:
        raise SettingError("port", "it is that of a page; give --page too")
    if options.page:
        watch_page(Path(options.run), options.port or 0, console)
    else:
        watch(Path(options.run), console)


def watch(path: Path, console: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show the run in a folder until it is complete, waiting for a folder that does not exist yet or is empty.

    Raises SettingError if the folder holds something else, or has files that cannot be read.
    """
    follower = RunFollower(path, MetricsFollower(path / "metrics.jsonl", METRICS))
    if console.is_terminal and not console.is_dumb_terminal:
        _follow_on_screen(follower, console, sleep)
    else:
        _follow_in_lines(follower, console, sleep)


def _follow_on_screen(follower: RunFollower, console: Console, sleep: Callable[[float], None]) -> None:
    state, _ = follower.read()
    with Live(Screen(state), console=console, auto_refresh=False) as live:
        while not state.is_complete:
            sleep(INTERVAL_S)
            state, _ = follower.read()
            live.update(Screen(state), refresh=True)


def _follow_in_lines(follower: RunFollower, console: Console, sleep: Callable[[float], None]) -> None:
    """Print a line for the last step that there is, and one for each that comes."""

    def say(line: str) -> None:
        console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    state, _ = follower.read()
    if not state.is_complete:
        say(head(state))
    num_known = num_shown = max(len(state.log) - 1, 0)
    while True:
        for line in step_lines(state, num_known, num_shown):
            say(line)
        if state.is_complete:
            return
        sleep(INTERVAL_S)
        num_shown = len(state.log)
        state, num_known = follower.read()


def watch_page(path: Path, port: int, console: Console) -> None:
    """Serve the page of the run in a folder until Ctrl-C; port 0: a free one. The folder need not exist yet."""
    # torch and transformers load here, not for --help or the terminal.
    from treepo.cli.report import find_estimator
    from treepo.config.defaults import changed_settings
    from treepo.report.live.server import make_server
    from treepo.report.terminal import Terminal

    with make_server(path, port, find_estimator, changed_settings) as server:
        Terminal(console).say(f"{server.url} shows {path} and follows it; Ctrl-C ends that.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            # Ctrl-C is how a user ends it.
            return
