"""Files that others may have made: opened only where they are plain files, and not written through links.

A pipe would be waited for without an end, a device has none, and a link leads to a file that nobody named.
"""

import errno
import os
import stat
from pathlib import Path
from typing import IO, Any

JSON_BYTES = 64 << 20
"""Longest JSON file that is read as a whole."""

LOG_BYTES = 2 << 30
"""Longest file of one JSON object per line that is read as a whole."""


def open_plain(path: Path, mode: str = "rb", **settings: Any) -> IO[Any]:
    """`open`, for plain files alone. In a mode that writes, links are not followed.

    Raises OSError as `open` does, also for pipes, devices and, when writing, links.
    """
    is_reading = mode.startswith("r") and "+" not in mode

    def opener(name: str, flags: int) -> int:
        # Without O_NONBLOCK, opening a pipe waits for its other end.
        handle = os.open(name, flags | os.O_NONBLOCK | (0 if is_reading else os.O_NOFOLLOW), 0o666)
        try:
            check_plain(os.fstat(handle), name)
        except OSError:
            os.close(handle)
            raise
        return handle

    try:
        return open(path, mode, opener=opener, **settings)
    except OSError as error:
        # What opening a pipe to write, or a socket, answers.
        if error.errno == errno.ENXIO:
            raise _not_plain(str(path)) from error
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link", str(path)) from error
        raise


def read_plain(path: Path, max_bytes: int | None = None) -> bytes:
    """The content of a plain file. Raises OSError, also if there are more bytes than that."""
    with open_plain(path) as file:
        content = file.read(-1 if max_bytes is None else max_bytes + 1)
    if max_bytes is not None and len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"longer than {max_bytes} bytes", str(path))
    return content


def check_plain(status: os.stat_result, name: str) -> None:
    """Raise OSError for what is neither a plain file nor a folder, which `open` refuses itself."""
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise _not_plain(name)


def _not_plain(name: str) -> OSError:
    return OSError(errno.EINVAL, "not a plain file", name)
