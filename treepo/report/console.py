"""The console of a command, and the package's messages on it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

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


@contextmanager
def logging_to_console(*, stderr: bool = False) -> Iterator[Console]:
    """A console that shows results and, while entered, the messages of the package; on standard error if asked.

    Of several processes of a job, the first one shows them; the others show errors alone, on standard error.
    """
    is_first = process_rank() == 0
    console = Console(quiet=not is_first, stderr=stderr)
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
