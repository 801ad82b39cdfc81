"""The page of a run that is kept up to date while the run goes on."""

import hashlib
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from treepo.report.live.server import PageServer, Payload, PayloadCache
from treepo.report.live.state import MetricsFollower, RunFollower
from treepo.report.page.html import page_html
from treepo.report.page.payload import page_payload
from treepo.report.page.report import FindEstimator, payload_of
from treepo.utils.text import sanitize

SOURCES = ("config.toml", "metrics.jsonl", "environment.jsonl", "trees/*.parquet", "model")
"""The files that a report is made of."""


def make_server(path: Path, port: int, find_estimator: FindEstimator) -> PageServer:
    """The server of the page of the run in a folder that need not exist yet. port: 0 for a free one.

    Raises SettingError if the folder holds something else or the port is not available.
    """
    RunFollower(path, MetricsFollower(path / "metrics.jsonl", frozenset())).read()
    cache = PayloadCache(lambda: fingerprint(path), lambda: live_payload(path, find_estimator))
    return PageServer(cache, partial(page_html, is_live=True), port)


def live_payload(path: Path, find_estimator: FindEstimator) -> Payload:
    """The payload of a run's page; only its name before the run has written anything."""
    now = datetime.now(UTC)
    if (path / "config.toml").exists():
        return payload_of([path], now, find_estimator)
    return page_payload(sanitize(path.name), [], [], now)


def fingerprint(path: Path) -> str:
    """Changes whenever a file changes that a report is made of."""
    digest = hashlib.blake2b(digest_size=16)
    for pattern in SOURCES:
        for file in sorted(path.glob(pattern)):
            found = file.stat()
            entry = f"{file.name}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ino}\n"
            digest.update(entry.encode(errors="replace"))
    return digest.hexdigest()
