"""From settings to the engine: the embedded one, vLLM in this process, or servers of vLLM."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import torch

from treepo.distributed import SINGLE_PROCESS, DistContext, resolve_device
from treepo.engine.base import Engine
from treepo.engine.server.answers import Vocabulary
from treepo.engine.server.engine import ServerEngine
from treepo.engine.server.weight_sync import DiskSync, NcclSync
from treepo.engine.settings import EngineSettings, ServerSettings, VllmSettings
from treepo.engine.torch.engine import TorchEngine
from treepo.engine.torch.kv_cache import affordable_tokens
from treepo.engine.transformers import TransformersEngine
from treepo.engine.vllm.engine import RequestGenerators, VllmEngine
from treepo.engine.vllm.start import check_installed, start_vllm
from treepo.errors import SettingError
from treepo.model.policy import Policy
from treepo.model.probe import vocabulary_size
from treepo.run.engine_check import check_servers, check_vllm, policy_score

MAX_SERVER_TEMPERATURE = 2.0
"""Highest temperature that servers of vLLM sample at."""


def build_engine(
    policy: Policy,
    settings: EngineSettings,
    *,
    vllm: VllmSettings,
    servers: ServerSettings,
    max_model_len: int,
    eos_ids: Sequence[int],
    autocast: torch.dtype | None = None,
    recompute_old_logprobs: bool = False,
    trust_remote_code: bool = False,
    processes: DistContext = SINGLE_PROCESS,
) -> Engine:
    """Return the engine that `engine.kind` names, with the policy's weights; the caller closes it.

    max_model_len: tokens of the longest prompt and response. eos_ids: what ends a response. autocast: type of the
    trainer's matrix products, if it is not that of the weights. recompute_old_logprobs: whether the trainer computes
    log-probabilities itself. processes: those that each build an engine.
    Raises SettingError for an engine that cannot be had, or that does not compute what the policy does.
    """
    if settings.kind != "embedded":
        score = policy_score(policy)
        if settings.kind == "servers":
            engine = _connect_servers(policy, settings, servers, eos_ids, processes)
        else:
            core, generators = _start_vllm(
                policy, settings, vllm, max_model_len, trust_remote_code=trust_remote_code, processes=processes
            )
            engine = VllmEngine(core, generators, eos_ids, can_sleep=vllm.sleep and policy.model.device.type != "cpu")
        try:
            if isinstance(engine, ServerEngine):
                check_servers(
                    engine,
                    policy,
                    score,
                    settings=settings,
                    recompute_old_logprobs=recompute_old_logprobs,
                    processes=processes,
                )
            else:
                check_vllm(engine, policy, score, vllm, processes)
        except BaseException:
            engine.close()
            raise
        return engine
    if not policy.supports_tree_attention:
        return TransformersEngine(policy.model, eos_ids, settings.max_num_seqs, autocast=autocast)
    return TorchEngine(
        policy.model,
        eos_ids,
        settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_cache_tokens=settings.max_cache_tokens,
        autocast=autocast,
        num_scheduler_steps=settings.num_scheduler_steps,
    )


def check_vllm_settings(path: str, align: int, vllm: VllmSettings, device: str) -> None:
    """Raise SettingError if forks are not aligned to whole blocks of vLLM, for the setting `path`, and if vLLM is
    missing. device: `model.device`."""
    block_size = vllm.block_size_on(resolve_device(device).partition(":")[0])
    if align > 1 and align % block_size:
        raise SettingError(path, f"must be a multiple of the {block_size} tokens of vLLM's blocks", align)
    check_installed()


def _start_vllm(
    policy: Policy,
    settings: EngineSettings,
    vllm: VllmSettings,
    max_model_len: int,
    *,
    trust_remote_code: bool,
    processes: DistContext,
) -> tuple[Any, RequestGenerators]:
    """(vLLM in this process, what its rows sample with)."""
    model = policy.model
    max_model_len = vllm.max_model_len or min(max_model_len, policy.max_len or max_model_len)
    if settings.max_cache_tokens is None and model.device.type == "cpu":
        # Enough for trees that wait for their slowest path besides those that decode.
        affordable = affordable_tokens(model, model.dtype) // processes.world_size
        wanted = min(affordable, 4 * settings.max_num_seqs * max_model_len)
        settings = replace(settings, max_cache_tokens=max(wanted, max_model_len))
    generators = RequestGenerators()
    core = start_vllm(
        replace(vllm, max_model_len=max_model_len),
        settings,
        model,
        generators,
        processes=processes,
        trust_remote_code=trust_remote_code,
    )
    return core, generators


def _connect_servers(
    policy: Policy, settings: EngineSettings, servers: ServerSettings, eos_ids: Sequence[int], processes: DistContext
) -> ServerEngine:
    if settings.temperature > MAX_SERVER_TEMPERATURE:
        message = f"servers take at most {MAX_SERVER_TEMPERATURE}"
        raise SettingError("engine.temperature", message, settings.temperature)
    if servers.sync == "nccl" and policy.model.device.type != "cuda":
        raise SettingError("servers.sync", "'nccl' needs the model on a GPU (model.device); use 'disk'")
    size = vocabulary_size(policy.model)
    engine = ServerEngine(
        servers,
        NcclSync(servers.address, policy.model.device) if servers.sync == "nccl" else DiskSync(servers.folder),
        # vLLM refuses tokens that a tokenizer has beyond the model's.
        Vocabulary(size, [i for i in eos_ids if i < policy.model.config.get_text_config().vocab_size]),
        max_num_seqs=settings.max_num_seqs,
        name=processes.broadcast(f"treepo-{uuid4().hex}"),
        leads=processes.is_first,
    )
    try:
        with processes.synced_errors():
            engine.connect()
    except BaseException:
        engine.close()
        raise
    return engine
