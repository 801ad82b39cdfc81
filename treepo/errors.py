"""Every exception class of the package."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _NotGiven:
    """The value of a SettingError that has none."""

    def __repr__(self) -> str:
        return "NOT_GIVEN"


NOT_GIVEN = _NotGiven()


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
        got = "" if self.value is NOT_GIVEN or isinstance(self.value, _NotGiven) else f", got {self.value!r:.200}"
        return f"{self.path}: {self.message}{got}"

    def within(self, section: str) -> "SettingError":
        """The same mistake, for a setting of the section."""
        return SettingError(f"{section}.{self.path}", self.message, self.value)


class UsageError(Exception):
    """A user's mistake, told in one line."""


@contextmanager
def users_mistakes() -> Iterator[None]:
    """While settings are read and parts are built, a ValueError is a user's mistake; later on it is a bug of ours."""
    try:
        yield
    except ValueError as error:
        raise UsageError(" ".join(str(error).split())) from error


def program() -> str:
    """What messages begin with: of several processes, which one says so."""
    rank, count = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    return "treepo" if "0" in (rank, count) or count == "1" else f"treepo (process {rank})"


class StrategyError(ValueError):
    """A strategy asked for or returned something impossible; the message names it."""


class VerifierStartError(ValueError):
    """No worker can judge with this verifier; the message names the setting, in one line."""


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


class EngineError(Exception):
    """What decodes cannot go on; the message says in one line what to look at."""


class StoreError(ValueError):
    """Answers cannot be kept or read; the message says in one line which file and why."""


class VerifierError(Exception):
    """The verifier comes to no verdict at all, or cannot be started any more, through no fault of the answers."""


class TrackerError(Exception):
    """A tracker cannot be started; the message says in one line which one and why."""


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
