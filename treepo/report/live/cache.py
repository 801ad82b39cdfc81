"""The payload of a run that goes on, made again only when the run has written something."""

import json
from collections.abc import Callable
from dataclasses import dataclass
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
