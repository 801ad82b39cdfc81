"""What the processes that judge answers may take."""

import os
from dataclasses import dataclass

MOST_WORKERS = 8


@dataclass(frozen=True)
class PoolSettings:
    """The processes that judge answers, and what they may take. Raises ValueError naming a setting out of range."""

    num_workers: int = 0
    """Processes; 0: one per core that this process may use, at most 8."""

    time_limit_s: float = 5.0
    """Wall time for one answer; then its process is killed and the answer is wrong."""

    memory_limit_mib: int = 2048
    """Address space of a process beyond what it has once its checker is loaded; not kept on macOS."""

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {self.num_workers}")
        if not 0 < self.time_limit_s <= 86400:
            raise ValueError(f"time_limit_s must be above 0 and at most 86400, got {self.time_limit_s}")
        if not 16 <= self.memory_limit_mib <= 2**30:
            raise ValueError(f"memory_limit_mib must be from 16 to 2^30, got {self.memory_limit_mib}")

    def workers_wanted(self, num_answers: int) -> int:
        """How many processes judge so many answers."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(num_answers, self.num_workers or min(cores, MOST_WORKERS))
