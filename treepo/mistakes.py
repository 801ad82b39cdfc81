"""Mistakes of whoever gives a command, told in one line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


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
