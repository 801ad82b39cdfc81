"""Forks that a function makes of its worker: they cannot speak for it, and do not go on as a second one."""

import contextlib
import os
import select
from collections.abc import Iterator
from typing import BinaryIO

RETURN_WAIT_S = 0.5
"""How long a worker waits to see whether a child that a function left running returns from the function."""


class ForkGuard:
    """Keeps forks of this process away from its pipes, and ends children that return where their parent does.

    Sees forks by Python (`os.fork`, multiprocessing), not those by C code.
    """

    def __init__(self, *pipes: BinaryIO) -> None:
        self.pid = os.getpid()
        self._pipes = pipes
        self._returned: tuple[int, int] | None = None
        """A pipe that children of the current call hold open, (read end, write end); None until one is forked."""

    def install(self) -> None:
        """Watch all forks from here on."""
        self._nothing = os.open(os.devnull, os.O_RDWR)
        os.register_at_fork(before=self._before, after_in_child=self._in_child)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """For a call of the verifier: ends a child that comes back from it.

        Raises RuntimeError in the worker itself if a child that was forked meanwhile came back, too.
        """
        try:
            yield
        finally:
            if os.getpid() != self.pid:
                self._end_child()
            if self._has_returned_twice():
                raise RuntimeError("the verifier forked, and its child returned too")

    def _end_child(self) -> None:
        if self._returned is not None:
            with contextlib.suppress(OSError):
                os.write(self._returned[1], b"!")
        os._exit(0)

    def _has_returned_twice(self) -> bool:
        if self._returned is None:
            return False
        reading, writing = self._returned
        self._returned = None
        os.close(writing)
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        # Its end is there at once where all children ended or run another program.
        is_told = bool(poll.poll(RETURN_WAIT_S * 1000))
        has_returned = is_told and os.read(reading, 1) != b""
        os.close(reading)
        return has_returned

    def _before(self) -> None:
        if self._returned is None and os.getpid() == self.pid:
            self._returned = os.pipe()

    def _in_child(self) -> None:
        for pipe in self._pipes:
            # The number stays taken: what is written to it by mistake goes nowhere.
            os.dup2(self._nothing, pipe.fileno(), inheritable=False)
