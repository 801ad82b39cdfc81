"""Every exception class of the package."""

import errno
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

NOT_GIVEN = ...
"""The value of a SettingError that has none; a pickled Ellipsis stays the same object."""


def one_line(text: str) -> str:
    """The text without line breaks, which what a message quotes of others may hold."""
    return " ".join(line for part in text.splitlines() if (line := part.strip()))


class OneLineError(Exception):
    """An error whose message is one line, whatever it quotes."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class SettingError(ValueError):
    """A mistake that the user can correct: a setting, an argument or a file.

    path: the setting as it is written, such as `optim.lr`, or the argument, such as `out`. message: what is wrong.
    value: what was given, if that helps.
    """

    def __init__(self, path: str, message: str, value: object = NOT_GIVEN) -> None:
        super().__init__(path, message, value)
        self.path = path
        self.message = message
        self.value = value

    def __str__(self) -> str:
        got = "" if self.value is NOT_GIVEN else f", got {self.value!r:.200}"
        return one_line(f"{self.path}: {self.message}{got}")

    def within(self, section: str) -> "SettingError":
        """The same mistake, for a setting of the section."""
        return SettingError(f"{section}.{self.path}", self.message, self.value)


@contextmanager
def named_as_typed(names: Mapping[str, str]) -> Iterator[None]:
    """Let errors about settings that were given by other names tell these. names: setting or section -> what was typed:
    an option, an argument."""
    try:
        yield
    except SettingError as error:
        typed = names.get(error.path) or names.get(error.path.partition(".")[0])
        if typed is None:
            raise
        raise SettingError(typed, error.message, error.value) from error


class StrategyError(OneLineError, ValueError):
    """A strategy asked for or returned something impossible; the message names it."""


class VerifierStartError(SettingError):
    """No worker can judge with this verifier."""


class WriteError(Exception):
    """A file or folder cannot be written: no room, no right, a disk that fails.

    path: the file or folder. reason: what the system says. lost: what is not on disk because of it.
    """

    def __init__(self, path: Path, reason: str, lost: str) -> None:
        super().__init__(path, reason, lost)
        self.path = path
        self.reason = reason
        self.lost = lost

    @classmethod
    def of(cls, error: OSError, path: Path, lost: str) -> "WriteError":
        """What the system said, about this path."""
        return cls(path, error.strerror or str(error), lost)

    def __str__(self) -> str:
        return one_line(f"{str(self.path)!r} cannot be written ({self.reason}); lost: {self.lost}")


NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What the system says of a disk that is full or fails, whatever the path."""


class MicroBatchMemoryError(MemoryError):
    """Memory ran out in a pass over a micro-batch, of this process or of another one: all raise it."""


class PeerError(Exception):
    """Another process could not go on, and told the others. kinds: the names of its error's class and its bases."""

    def __init__(self, rank: int, kinds: tuple[str, ...], message: str) -> None:
        super().__init__(f"process {rank} could not go on: {message}")
        self.kinds = kinds


class LostError(Exception):
    """Another process ended without a word, or cannot be reached."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"another process of this job ended or cannot be reached ({reason.splitlines()[0][:200]})")


class Interrupted(BaseException):
    """A signal asks to stop. is_urgent: for the second time, so nothing is to be saved."""

    def __init__(self, signum: int, is_urgent: bool) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.is_urgent = is_urgent


class EngineError(OneLineError):
    """What decodes cannot go on; the message says in one line what to look at."""


class VerifierError(OneLineError):
    """The verifier comes to no verdict at all, or cannot be started any more, through no fault of the answers."""


class EnvironmentFailedError(OneLineError):
    """Environments cannot be begun, or each of their steps fails; the message says in one line what was raised."""


class EnvironmentDivergedError(Exception):
    """An environment that was given the same actions again did not do the same. number: of the action, 0 for reset."""

    def __init__(self, number: int) -> None:
        what = f"its answer to action {number}" if number else "its first messages"
        super().__init__(f"the environment did not repeat itself when it was replayed: {what} differs")
        self.number = number


class TrackerError(OneLineError):
    """A tracker cannot be started; the message says in one line which one and why."""


USER_ERRORS = (SettingError, StrategyError, EngineError, EnvironmentFailedError, TrackerError, VerifierError)
"""What the command line shows as one line, with exit code 2."""

RESOURCE_ERRORS = (WriteError, MemoryError)
"""What it shows as one line, with exit code 3: no room on the disk or in memory."""


class NonFiniteUpdateError(Exception):
    """Loss or gradients are not finite; `batch` is the one that did it."""

    def __init__(self, what: str, batch: Any) -> None:
        super().__init__(f"{what} is not finite")
        self.batch = batch


class UnsupportedAttentionError(SettingError):
    """A model whose attention cannot run packed trees: it can be trained on separate trajectories alone."""

    def __init__(self, message: str) -> None:
        super().__init__("model.path", message)


class ServerError(Exception):
    """A server did not do what it was asked; another one, or this one later, may. status: of its answer, if any."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class RefusedError(EngineError):
    """A server says that it was asked something impossible; asking again is no use."""


class DamagedError(Exception):
    """A file of a checkpoint is missing, cut short or changed."""


class RecordError(ValueError):
    """A file or record of a dataset cannot be used. place: where it is, such as `train.jsonl:3`; empty if not known."""

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message, place)
        self.message = message
        self.place = place

    def __str__(self) -> str:
        return one_line(f"{self.place}: {self.message}" if self.place else self.message)

    def at(self, place: str) -> Self:
        """The same error at a place, unless it already has one."""
        return self if self.place else type(self)(self.message, place)


class MissingFieldError(RecordError):
    """A record has no field of a name."""
