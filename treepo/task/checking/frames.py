"""Messages between the pool and its workers: a length, 8 bytes, then that many bytes of JSON in ASCII.

Whatever a text holds, NULs or half surrogate pairs, is an escape sequence on the way.
"""

import json
import struct
from typing import Any, BinaryIO

_LENGTH = struct.Struct(">Q")


def packed(message: object) -> bytes:
    """One message as it goes over a pipe."""
    body = json.dumps(message).encode("ascii")
    return _LENGTH.pack(len(body)) + body


def read_message(stream: BinaryIO) -> Any | None:
    """The next message of a blocking stream; None when it ended."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    body = stream.read(size)
    return json.loads(body) if len(body) == size else None


def take_message(received: bytearray) -> Any | None:
    """The first message of what was received so far, which is removed there; None if it is not complete."""
    if len(received) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack_from(received)
    end = _LENGTH.size + size
    if len(received) < end:
        return None
    body = bytes(received[_LENGTH.size : end])
    del received[:end]
    return json.loads(body)
