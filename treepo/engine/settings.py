"""Settings of the engines; importing them loads no torch."""

from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field

from treepo.engine.base import SamplingParams
from treepo.errors import SettingError

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class EngineSettings:
    """The engine that samples responses."""

    kind: Literal["embedded", "vllm", "servers"] = "embedded"
    """The engine over the model that is trained; vLLM in this process ([vllm]); servers of vLLM ([servers])."""

    max_num_seqs: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Most sequences decoded at a time."""

    max_num_batched_tokens: Count = 8192
    """Most prompt tokens of one forward; a longer prompt has a forward to itself."""

    max_cache_tokens: Annotated[int, Field(ge=64)] | None = None
    """Most tokens whose keys and values are kept; by default as many as half of the free memory holds. Servers have
    their own limit."""

    num_scheduler_steps: Count = 16
    """Most tokens that each sequence decodes on a GPU before the host looks which have ended; the host waits once for
    all of them, and sequences that end early decode tokens that are dropped. Of the embedded engine."""

    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    """Sampling temperature in training."""

    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample only from so many likeliest tokens; 0 for all. The loss always compares with the whole distribution."""

    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample only from the likeliest tokens that together have this probability."""

    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Sample only from tokens with at least this share of the likeliest one's probability."""

    @property
    def sampling_params(self) -> SamplingParams:
        """How tokens are sampled in training."""
        return SamplingParams(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)


@dataclass(frozen=True)
class ServerSettings:
    """Servers of vLLM, used with `engine.kind = "servers"`; engine.max_num_seqs is the limit of each."""

    urls: tuple[str, ...] = ()
    """Their addresses, such as http://localhost:8000; an API key is read from the environment variable VLLM_API_KEY."""

    sync: Literal["disk", "nccl"] = "disk"
    """How they get new weights: through a folder, or by vLLM's weight transfer over NCCL."""

    dtype: Literal["same", "float32", "bfloat16", "float16"] = "same"
    """Type in which weights are sent: that of the servers, to which they convert them, saves time and memory; "same" is
    that of model.dtype."""

    folder: str = ""
    """With sync = "disk": a folder that trainer and servers see under the same path; by default the folder for
    temporary files."""

    address: str = ""
    """With sync = "nccl": the trainer's address, as the servers see it, and a free port: 10.0.0.1:29600."""

    timeout_s: float = 600.0
    """Longest time for a segment, and for an update of the weights."""

    max_retries: int = 5
    """How often a failed request is sent again: to another server if one is alive, else after 1, 2, 4 ... seconds."""

    def __post_init__(self) -> None:
        for url in self.urls:
            if not _is_address(url):
                raise SettingError("urls", "must be addresses such as http://localhost:8000", url)
        if len({url.rstrip("/") for url in self.urls}) < len(self.urls):
            raise SettingError("urls", "must differ", self.urls)
        if not self.timeout_s > 0:
            raise SettingError("timeout_s", "must be positive", self.timeout_s)
        if self.max_retries < 0:
            raise SettingError("max_retries", "must not be negative", self.max_retries)
        host, _, port = self.address.rpartition(":")
        if self.sync == "nccl" and not (host and port.isdecimal()):
            raise SettingError("address", "must be an address and a port such as 10.0.0.1:29600", self.address)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


@dataclass(frozen=True)
class VllmSettings:
    """vLLM in this process, used with `engine.kind = "vllm"`."""

    dtype: Literal["same", "float32", "bfloat16"] = "same"
    """Type of its weights and matrix products; "same" is that of model.dtype."""

    max_model_len: int | None = None
    """Most tokens of a sequence; by default those of the longest prompt and response of the run."""

    block_size: int | None = None
    """Tokens per block of its cache, the unit that sequences share; by default 16 on GPUs and 32 on the CPU."""

    gpu_memory_utilization: float = 0.4
    """Share of a GPU's memory that it may take, unless engine.max_cache_tokens bounds its cache."""

    sleep: bool = True
    """Free its memory while the trainer updates, on GPUs."""

    def __post_init__(self) -> None:
        for name, least in (("max_model_len", 2), ("block_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise SettingError(name, f"must be at least {least}", value)
        if not 0 < self.gpu_memory_utilization <= 1:
            raise SettingError("gpu_memory_utilization", "must be above 0 and at most 1", self.gpu_memory_utilization)

    def block_size_on(self, device: str) -> int:
        """Return the tokens per block on a device: cpu or cuda."""
        return self.block_size or (32 if device == "cpu" else 16)
