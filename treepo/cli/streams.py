"""Standard output and standard error that may be closed, full, or read by nobody."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from treepo.errors import WriteError


class Output:
    """A stream to a disk that may be full: then nothing more is shown, and nothing else fails.

    outlives_reader: the same where the reader of a pipe has gone; otherwise that raises BrokenPipeError. failure: what
    the system said, if it did.
    """

    def __init__(self, stream: TextIO, outlives_reader: bool = False) -> None:
        self.stream = stream
        self.outlives_reader = outlives_reader
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write or lose a text."""
        with self._losing():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write or lose what was kept back."""
        with self._losing():
            self.stream.flush()

    def check(self) -> None:
        """Raise WriteError if something was lost."""
        self.flush()
        if self.failure is not None:
            raise WriteError.of(self.failure, Path("standard output"), "what was to be shown; all files are written")

    @contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, BrokenPipeError) and not self.outlives_reader:
                raise
            self.failure = self.failure or error
            # What the stream keeps back would fail again, at exit too.
            with suppress(OSError, ValueError), open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), self.stream.fileno())


@contextmanager
def standard_streams() -> Iterator[Output]:
    """Let `sys.stdout`, which is yielded, and `sys.stderr` be an Output while entered.

    Where the program was started without them (`>&-`) they lead nowhere: the next files to be opened would get their
    numbers, and what is shown would be written there.
    """
    _open_missing()
    before = sys.stdout, sys.stderr
    output = Output(sys.stdout)
    sys.stdout, sys.stderr = cast(TextIO, output), cast(TextIO, Output(sys.stderr, outlives_reader=True))
    try:
        yield output
    finally:
        sys.stdout, sys.stderr = before


def _open_missing() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest number that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)
    # They stay open for as long as the program runs.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
