"""Errors of other libraries that have no class of their own and are recognised by their text.

Each function names the libraries and the versions whose texts it was tested with (tests/utils/test_foreign_errors.py).
"""

import os
import re

import torch
import torch.distributed as dist

OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator found no memory, on a GPU or on the CPU.

    PyTorch 2.13: torch.OutOfMemoryError for CUDA; a plain RuntimeError for the CPU ("can't allocate memory", on Windows
    "not enough memory") and for cuBLAS. numpy 2 and Python raise MemoryError. NCCL says "out of memory", too, but its
    connections are lost then: what is tried again would wait for ever.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, dist.DistError):
        return False
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)


def as_os_error(error: Exception) -> Exception:
    """The OSError that an error of another library stands for, or the error itself.

    safetensors 0.8: SafetensorError, whose text ends with Rust's "(os error 28)", and a path if there is one.
    """
    found = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else error


def is_lost_process(error: BaseException) -> bool:
    """Whether a collective failed because another process ended or cannot be reached.

    PyTorch 2.13: dist.DistError for NCCL; gloo raises a plain RuntimeError whose text names its source file ("gloo/").
    """
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/" in str(error))


def first_line(error: BaseException) -> str:
    """The first line of an error's text, with the next one if it only announces that, at most 200 characters."""
    first, _, rest = str(error).strip().partition("\n")
    if first.endswith(":"):
        first = f"{first} {rest.strip().partition(chr(10))[0]}".strip()
    return first[:200]


VLLM_SETTINGS = {
    "GPU memory utilization": "vllm.gpu_memory_utilization",
    "--kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE": "engine.max_cache_tokens",
    "common block size": "vllm.block_size",
    "gpu_memory_utilization": "vllm.gpu_memory_utilization",
    "max_model_len": "vllm.max_model_len",
    "block_size": "vllm.block_size",
}
"""What vLLM's messages call our settings."""


def vllm_complaint(error: BaseException) -> str:
    """What an error of vLLM says, in one line and with the names of our settings.

    vLLM 0.32: its configuration classes are pydantic's, whose reports have the complaint after "Value error, "; other
    errors say it in their first line.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    complaints = [line for line in lines if line.startswith("Value error, ")]
    text = complaints[0].removeprefix("Value error, ") if complaints else lines[0] if lines else type(error).__name__
    theirs = "|".join(map(re.escape, VLLM_SETTINGS))
    return re.sub(theirs, lambda found: VLLM_SETTINGS[found[0]], text).split(" [type=")[0]


def vllm_server_has_nan(text: str) -> bool:
    """Whether a server of vLLM answers with this text because log-probabilities are not finite.

    vLLM 0.32: its answer is then no JSON, which Starlette refuses to send.
    """
    return "Out of range float values are not JSON compliant" in text
