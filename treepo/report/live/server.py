"""Serves the page of a run to this machine; its payload is made anew only when the run has written something."""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any

from treepo.errors import SettingError
from treepo.report.live.state import MetricsFollower, RunFollower
from treepo.report.page.payload import page_payload
from treepo.report.page.report import FindChanged, FindEstimator, none_changed, page_html, payload_of
from treepo.utils.text import sanitize

Payload = dict[str, Any]

MAX_SHARE = 0.1
"""Largest share of the time that is spent on making payloads: the run may need the processor."""


@dataclass(frozen=True)
class CachedPayload:
    """A payload, also as JSON, and the fingerprint of the files that it was made of."""

    fingerprint: str
    payload: Payload
    json: bytes


class PayloadCache:
    """Keeps the latest payload.

    fingerprint: returns a text that changes when the run has written something. make: makes the current payload.
    """

    def __init__(
        self, fingerprint: Callable[[], str], make: Callable[[], Payload], clock: Callable[[], float] = monotonic
    ) -> None:
        self._fingerprint, self._make, self._clock = fingerprint, make, clock
        self._lock = Lock()
        self._cached: CachedPayload | None = None
        self._not_before = 0.0

    def get(self) -> CachedPayload:
        """The current payload, or a recent one if making another would be too early.

        Raises SettingError if the run cannot be read.
        """
        with self._lock:
            start = self._clock()
            if self._cached is not None and start < self._not_before:
                return self._cached
            fingerprint = self._fingerprint()
            if self._cached is None or fingerprint != self._cached.fingerprint:
                payload = self._make()
                text = json.dumps(payload, allow_nan=False, separators=(",", ":"))
                self._cached = CachedPayload(fingerprint, payload, text.encode())
                end = self._clock()
                self._not_before = end + (end - start) * (1 / MAX_SHARE - 1)
            return self._cached


HOST = "127.0.0.1"
"""No other machine can reach it."""

NAMES = (HOST, "localhost")
"""Host names of requests from this machine. A page from elsewhere that resolves to it has another name (DNS
rebinding)."""

HEADERS = {
    "Cache-Control": "no-cache",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""No other site can read or embed the answers."""


class PageServer(ThreadingHTTPServer):
    """Answers GET / with the page and GET /payload with its latest payload, once `serve_forever` is called.

    page: makes HTML that shows a payload and asks for later ones. port: 0 for a free one. Raises SettingError if the
    port is not available.
    """

    daemon_threads = True

    def __init__(self, cache: PayloadCache, page: Callable[[Payload], str], port: int = 0) -> None:
        self.cache, self.page = cache, page
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise SettingError("port", f"{port} is not available on {HOST}: {error}") from error

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a browser that has closed its connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    timeout = 10.0
    server_version, sys_version = "treepo", ""

    @property
    def page_server(self) -> PageServer:
        assert isinstance(self.server, PageServer)
        return self.server

    def do_GET(self) -> None:
        if self.headers.get("Host") not in {f"{name}:{self.page_server.server_port}" for name in NAMES}:
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"another host's name\n")
        elif self.path not in ("/", "/payload"):
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"nothing here\n")
        else:
            self._answer_run()

    def _answer_run(self) -> None:
        try:
            cached = self.page_server.cache.get()
        except (ValueError, OSError) as error:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", f"{error}\n".encode())
            return
        tag = f'"{cached.fingerprint}"'
        if self.headers.get("If-None-Match") == tag:
            self._answer(HTTPStatus.NOT_MODIFIED, None, b"", tag)
        elif self.path == "/payload":
            self._answer(HTTPStatus.OK, "application/json", cached.json, tag)
        else:
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", self.page_server.page(cached.payload).encode(), tag)

    def _answer(self, status: HTTPStatus, kind: str | None, body: bytes, tag: str | None = None) -> None:
        self.send_response(status)
        given = {"ETag": tag, "Content-Type": kind, "Content-Length": str(len(body)) if kind else None}
        for name, value in (HEADERS | given).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log no requests."""


SOURCES = ("config.toml", "metrics.jsonl", "environment.jsonl", "samples.jsonl", "trees/*.parquet", "model")
"""The files that a report is made of."""


def make_server(
    path: Path, port: int, find_estimator: FindEstimator, find_changed: FindChanged = none_changed
) -> PageServer:
    """The server of the page of the run in a folder that need not exist yet. port: 0 for a free one.

    Raises SettingError if the folder holds something else or the port is not available.
    """
    RunFollower(path, MetricsFollower(path / "metrics.jsonl", frozenset())).read()
    cache = PayloadCache(lambda: fingerprint(path), lambda: live_payload(path, find_estimator, find_changed))
    return PageServer(cache, partial(page_html, is_live=True), port)


def live_payload(path: Path, find_estimator: FindEstimator, find_changed: FindChanged = none_changed) -> Payload:
    """The payload of a run's page; only its name before the run has written anything."""
    now = datetime.now(UTC)
    if (path / "config.toml").exists():
        return payload_of([path], now, find_estimator, find_changed)
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
