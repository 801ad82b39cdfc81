"""Where the servers are and how they are treated."""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit


@dataclass(frozen=True)
class ServerSettings:
    """vLLM's own servers, where `engine.kind` is "servers"; engine.max_num_seqs counts for each of them."""

    urls: tuple[str, ...] = ()
    """Their addresses, such as http://localhost:8000; the key of servers that want one is taken from VLLM_API_KEY."""

    sync: Literal["disk", "nccl"] = "disk"
    """How they get new weights: from a folder that is saved and read again, or by vLLM's weight transfer over NCCL."""

    folder: str = ""
    """For sync = "disk": a folder that trainer and servers see under the same path; this machine's own for temporary
    files if not given."""

    address: str = ""
    """For sync = "nccl": the trainer's address, as the servers see it, and a free port: 10.0.0.1:29600."""

    timeout_s: float = 600.0
    """Longest time for a segment, and for an update of the weights."""

    max_retries: int = 5
    """How often a segment is asked for again, of another server where one is alive and else after waits of 1, 2, 4 ...
    seconds."""

    def __post_init__(self) -> None:
        for url in self.urls:
            if not _is_address(url):
                raise ValueError(f"urls must be addresses such as http://localhost:8000, got {url!r}")
        if len({url.rstrip("/") for url in self.urls}) < len(self.urls):
            raise ValueError(f"urls must differ, got {self.urls}")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s must be positive, got {self.timeout_s}")
        if self.max_retries < 0:
            raise ValueError(f"max_retries must not be negative, got {self.max_retries}")
        host, _, port = self.address.rpartition(":")
        if self.sync == "nccl" and not (host and port.isdecimal()):
            raise ValueError(f"address must be an address and a port such as 10.0.0.1:29600, got {self.address!r}")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
