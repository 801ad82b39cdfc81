"""`treepo watch --page`: a run's report, kept up to date on a page of this machine."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from treepo.printable import printable
from treepo.report.live.cache import Payload, PayloadCache
from treepo.report.live.follow import MetricsFollower
from treepo.report.live.server import PageServer
from treepo.report.live.state import RunFolder
from treepo.report.page.html import page_html
from treepo.report.page.payload import page_payload
from treepo.reporting import payload_of

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
    return page_payload(printable(path.name), [], [], now)


def mark_of(path: Path) -> str:
    """Changes whenever a file changes that a report is made of."""
    mark = hashlib.blake2b(digest_size=16)
    for pattern in WRITTEN:
        for file in sorted(path.glob(pattern)):
            found = file.stat()
            mark.update(f"{file.name}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ino}\n".encode(errors="replace"))
    return mark.hexdigest()
