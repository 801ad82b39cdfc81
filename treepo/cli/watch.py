"""`treepo watch`: a run as it trains, in the terminal or as a page."""

import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.live import Live

from treepo.cli.report import payload_of
from treepo.report.live.screen import NAMES, Screen, head, step_lines
from treepo.report.live.server import PageServer, Payload, PayloadCache
from treepo.report.live.state import MetricsFollower, RunFolder
from treepo.report.page.html import page_html
from treepo.report.page.payload import page_payload
from treepo.utils.text import sanitize

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


WRITTEN = ("config.toml", "metrics.jsonl", "environment.jsonl", "trees/*.parquet", "model")
"""What a report is made of."""


def watch_page(path: Path, port: int, say: Callable[[str], None]) -> None:
    """Serve the page of the run in a folder until Ctrl-C; port 0: a free one. The folder need not be there yet.

    Raises ValueError if the folder holds something else, or the port cannot be had.
    """
    RunFolder(path, MetricsFollower(path / "metrics.jsonl", frozenset())).read()
    cache = PayloadCache(lambda: mark_of(path), lambda: live_payload(path))
    with PageServer(cache, partial(page_html, is_live=True), port) as server:
        say(f"{server.url} shows {path} and follows it; Ctrl-C ends that.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            # That is how it is ended.
            return


def live_payload(path: Path) -> Payload:
    """What the page shows of a run; of one that is being prepared, its name."""
    now = datetime.now(UTC)
    if (path / "config.toml").exists():
        return payload_of([path], now)
    return page_payload(sanitize(path.name), [], [], now)


def mark_of(path: Path) -> str:
    """Changes whenever a file changes that a report is made of."""
    mark = hashlib.blake2b(digest_size=16)
    for pattern in WRITTEN:
        for file in sorted(path.glob(pattern)):
            found = file.stat()
            mark.update(f"{file.name}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ino}\n".encode(errors="replace"))
    return mark.hexdigest()
