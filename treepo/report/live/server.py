"""The payload of a run that goes on, made again only when the run has written something."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from time import monotonic
from typing import Any

Payload = dict[str, Any]

SHARE = 0.1
"""Of the time, at most so much is spent on making payloads: the run may need the processor."""


@dataclass(frozen=True)
class Made:
    """A payload, as JSON too, and the mark of what it was made of."""

    mark: str
    payload: Payload
    json: bytes


class PayloadCache:
    """The payload as it was made last. mark: changes when the run has written something; make: the payload of now."""

    def __init__(
        self, mark: Callable[[], str], make: Callable[[], Payload], clock: Callable[[], float] = monotonic
    ) -> None:
        self._mark, self._make, self._clock = mark, make, clock
        self._lock = Lock()
        self._made: Made | None = None
        self._not_before = 0.0

    def get(self) -> Made:
        """The payload of now, or of a little while ago if making it anew would come too early.

        Raises ValueError if the run cannot be read.
        """
        with self._lock:
            start = self._clock()
            if self._made is not None and start < self._not_before:
                return self._made
            mark = self._mark()
            if self._made is None or mark != self._made.mark:
                payload = self._make()
                text = json.dumps(payload, allow_nan=False, separators=(",", ":"))
                self._made = Made(mark, payload, text.encode())
                end = self._clock()
                self._not_before = end + (end - start) * (1 / SHARE - 1)
            return self._made


HOST = "127.0.0.1"
"""Nobody else can reach it."""

NAMES = (HOST, "localhost")
"""What a browser on this machine calls it. A page from elsewhere whose name was made to lead here has another name."""

HEADERS = {
    "Cache-Control": "no-cache",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""So that no other site can read or embed what is answered."""


class PageServer(ThreadingHTTPServer):
    """Answers GET / with the page and GET /payload with its newest payload, once `serve_forever` is called.

    page: the HTML that shows a payload and asks for newer ones. port: 0 for a free one. Raises ValueError if the port
    cannot be had.
    """

    daemon_threads = True

    def __init__(self, cache: PayloadCache, page: Callable[[Payload], str], port: int = 0) -> None:
        self.cache, self.page = cache, page
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ValueError(f"port: {port} cannot be had on {HOST}: {error}") from error

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error; see socketserver."""
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
            made = self.page_server.cache.get()
        except (ValueError, OSError) as error:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", f"{error}\n".encode())
            return
        mark = f'"{made.mark}"'
        if self.headers.get("If-None-Match") == mark:
            self._answer(HTTPStatus.NOT_MODIFIED, None, b"", mark)
        elif self.path == "/payload":
            self._answer(HTTPStatus.OK, "application/json", made.json, mark)
        else:
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", self.page_server.page(made.payload).encode(), mark)

    def _answer(self, status: HTTPStatus, kind: str | None, body: bytes, mark: str | None = None) -> None:
        self.send_response(status)
        given = {"ETag": mark, "Content-Type": kind, "Content-Length": str(len(body)) if kind else None}
        for name, value in (HEADERS | given).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Requests are nobody's news."""
