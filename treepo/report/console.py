"""The console of a command, and the package's messages on it."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from rich.console import Console
from rich.text import Text

from treepo.errors import WriteError
from treepo.utils import process_rank
from treepo.utils.text import message_line

STYLES = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


class ConsoleHandler(logging.Handler):
    """Prints each record as one line through a console, so that a progress bar below stays whole."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print what would steer the terminal as its escape sequence."""
        try:
            prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            line = Text(prefix + message_line(record.getMessage()), style=STYLES.get(record.levelno, ""))
            self.console.print(line, soft_wrap=True)
        except BrokenPipeError:
            raise
        except Exception:  # noqa: BLE001 - a message must not end a run
            self.handleError(record)


class Output:
    """A stream to a disk that may be full: then nothing more is shown, and nothing else fails.

    failure: what the disk said, if it did.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
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

    @contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            self.failure = self.failure or error
            # What the stream keeps back would fail again, at exit too.
            with suppress(OSError, ValueError), open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), self.stream.fileno())


@contextmanager
def logging_to_console(*, stderr: bool = False) -> Iterator[Console]:
    """A console that shows results and, while entered, the messages of the package; on standard error if asked.

    Of several processes of a job, the first one shows them; the others show errors alone, on standard error. Raises
    WriteError at the end if the output goes to a disk that is full.
    """
    is_first = process_rank() == 0
    output = Output(sys.stderr if stderr else sys.stdout)
    console = Console(quiet=not is_first, file=cast(TextIO, output))
    handler = ConsoleHandler(console if is_first else Console(stderr=True))
    handler.setLevel(logging.INFO if is_first else logging.ERROR)
    logger = logging.getLogger("treepo")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield console
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
    output.flush()
    if output.failure is not None:
        raise WriteError.of(output.failure, Path("standard output"), "what was to be shown; all files are written")
