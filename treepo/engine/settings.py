"""Settings of the engines. Importing this loads no torch."""

from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class EngineSettings:
    """What decodes."""

    kind: Literal["embedded", "vllm", "servers"] = "embedded"
    """The engine over the model that is trained; vLLM in this process ([vllm]); vLLM's servers ([servers])."""

    max_num_seqs: Count = 256
    """Most paths decoded at a time."""

    max_num_batched_tokens: Count = 8192
    """Most prompt tokens of one forward, though at least one prompt."""

    max_cache_tokens: Annotated[int, Field(ge=64)] | None = None
    """Most tokens whose keys and values are kept; half of the free memory's worth if not given. Servers have their
    own limit."""

    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    """Sampling temperature in training."""

    top_k: Annotated[int, Field(ge=0)] = 0
    """Draw only from so many likeliest tokens; 0 for all. The loss compares with the whole distribution anyway."""

    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw only from the likeliest tokens that together have this probability."""

    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Draw only from tokens with at least this share of the likeliest one's probability."""


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


@dataclass(frozen=True)
class VllmSettings:
    """What vLLM is started with, where `engine.kind` is "vllm"."""

    dtype: Literal["same", "float32", "bfloat16"] = "same"
    """Type of its weights and products; "same" is that of model.dtype."""

    max_model_len: int | None = None
    """Longest sequence; the longest prompt and response of this run if not given."""

    block_size: int | None = None
    """Tokens per block of its cache, what it shares between sequences; 16 on GPUs and 32 on the CPU if not given."""

    gpu_memory_utilization: float = 0.4
    """Share of a GPU's memory that it may take; engine.max_cache_tokens bounds its cache instead, if given."""

    sleep: bool = True
    """Give the memory back to the trainer while it updates, on GPUs."""

    def __post_init__(self) -> None:
        for name, least in (("max_model_len", 2), ("block_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(f"gpu_memory_utilization must be above 0 and at most 1, got {self.gpu_memory_utilization}")

    def block_size_on(self, device: str) -> int:
        """Tokens per block."""
        return self.block_size or (32 if device == "cpu" else 16)
