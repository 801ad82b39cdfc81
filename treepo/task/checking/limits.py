"""What a worker may take."""

import os
import resource
import signal
import sys


def address_space() -> int | None:
    """Bytes of address space of this process; None where the system does not say (macOS)."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return None


def limit_memory(more_mib: int) -> int | None:
    """Let this process take at most `more_mib` MiB of address space beyond what it has, or less if the system says so.

    Returns how many bytes are halfway there; None where there is no such limit (macOS).
    """
    taken = address_space()
    if taken is None or sys.platform == "darwin":
        return None
    limit = taken + more_mib * 2**20
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    return (taken + limit) // 2


def end_after(seconds: float) -> None:
    """Let the system end this process after that many seconds of wall time, whatever it does then; 0: never."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def leave_no_core() -> None:
    """A worker that is ended writes no core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
