"""From settings to the engine: the embedded one, vLLM in this process, or servers of vLLM."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

import numpy as np
import torch

from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.engine.base import Engine, SamplingParams, Score, max_logprob_diff
from treepo.engine.server.answers import Vocabulary
from treepo.engine.server.engine import ServerEngine
from treepo.engine.server.weight_sync import DiskSync, NcclSync
from treepo.engine.settings import EngineSettings, ServerSettings, VllmSettings
from treepo.engine.torch.engine import TorchEngine
from treepo.engine.torch.kv_cache import affordable_tokens
from treepo.engine.transformers import TransformersEngine
from treepo.engine.vllm.engine import RequestGenerators, VllmEngine
from treepo.engine.vllm.start import start_vllm
from treepo.engine.weights import give_weights
from treepo.errors import SettingError
from treepo.model.fsdp import unsharded
from treepo.model.policy import Policy
from treepo.model.probe import TOLERANCE, probe_ids, sequence_logprobs, vocabulary_size
from treepo.utils.foreign_errors import vllm_complaint

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
        score = _policy_score(policy)
        if settings.kind == "servers":
            engine = _connect_servers(policy, settings, servers, eos_ids, processes)
        else:
            engine = _start_vllm(policy, settings, vllm, max_model_len, eos_ids, trust_remote_code)
        try:
            if isinstance(engine, ServerEngine):
                _check_servers(
                    engine,
                    policy,
                    score,
                    settings=settings,
                    recompute_old_logprobs=recompute_old_logprobs,
                    processes=processes,
                )
            else:
                _check_vllm(engine, policy, score, vllm)
        except BaseException:
            engine.close()
            raise
        return engine
    with unsharded(policy.model):
        return _embedded(policy, settings, eos_ids, autocast)


def _embedded(policy: Policy, settings: EngineSettings, eos_ids: Sequence[int], autocast: torch.dtype | None) -> Engine:
    if not policy.supports_tree_attention:
        return TransformersEngine(policy.model, eos_ids, settings.max_num_seqs, autocast=autocast)
    return TorchEngine(
        policy.model,
        eos_ids,
        settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_cache_tokens=settings.max_cache_tokens,
        autocast=autocast,
    )


def check_align(path: str, align: int, block_size: int) -> None:
    """Raise SettingError for the setting `path` if forks are not aligned to whole blocks of vLLM."""
    if align > 1 and align % block_size:
        raise SettingError(path, f"must be a multiple of the {block_size} tokens of vLLM's blocks", align)


def _start_vllm(
    policy: Policy,
    settings: EngineSettings,
    vllm: VllmSettings,
    max_model_len: int,
    eos_ids: Sequence[int],
    trust_remote_code: bool,
) -> VllmEngine:
    max_model_len = vllm.max_model_len or min(max_model_len, policy.max_len or max_model_len)
    on_cpu = policy.model.device.type == "cpu"
    if settings.max_cache_tokens is None and on_cpu:
        # Enough for trees that wait for their slowest path besides those that decode.
        wanted = min(affordable_tokens(policy.model, reserved_bytes=0), 4 * settings.max_num_seqs * max_model_len)
        settings = replace(settings, max_cache_tokens=max(wanted, max_model_len))
    generators = RequestGenerators()
    sized = replace(vllm, max_model_len=max_model_len)
    core = start_vllm(sized, settings, policy.model, generators, trust_remote_code=trust_remote_code)
    return VllmEngine(core, generators, eos_ids, can_sleep=vllm.sleep and not on_cpu)


def _check_vllm(engine: VllmEngine, policy: Policy, score: Score, vllm: VllmSettings) -> None:
    """Raise SettingError unless vLLM computes the policy's own log-probabilities."""
    kind = policy.model.config.model_type
    try:
        diff = _diff_after_update(engine, policy, score)
    except Exception as error:
        # Some models are refused only when they run.
        raise SettingError("engine.kind", f"vLLM cannot run {kind!r}: {vllm_complaint(error)}") from error
    if not diff <= TOLERANCE[torch.bfloat16 if vllm.dtype == "bfloat16" else policy.model.dtype]:
        message = f"vLLM does not compute what {kind!r} does: log-probabilities are off by {diff:.2g}"
        raise SettingError("engine.kind", message)


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
        NcclSync(servers.address) if servers.sync == "nccl" else DiskSync(servers.folder),
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


def _check_servers(
    engine: ServerEngine,
    policy: Policy,
    score: Score,
    *,
    settings: EngineSettings,
    recompute_old_logprobs: bool,
    processes: DistContext,
) -> None:
    """Raise SettingError unless servers report the policy's own log-probabilities, as the loss needs them."""
    tolerance = TOLERANCE[torch.bfloat16]
    diff = _diff_after_update(engine, policy, score, processes)
    if not diff <= tolerance:
        message = f"log-probabilities are off by {diff:.2g}: they serve another kind of model"
        raise SettingError("servers.urls", message)
    diff = _logprob_diff(engine, policy, score, settings.sampling_params)
    if not diff <= tolerance / min(settings.temperature, 1.0) and not recompute_old_logprobs:
        message = (
            f"log-probabilities are off by {diff:.2g} at these temperature, top_k, top_p and min_p; set "
            "train.recompute_old_logprobs, or, at a temperature alone, start servers with "
            "--logprobs-mode processed_logprobs"
        )
        raise SettingError("servers.urls", message)


def _policy_score(policy: Policy) -> Score:
    """The policy's log-probabilities of the probe's first tokens, computed once; a sharded model's processes do that
    together."""
    model = policy.model
    every = sequence_logprobs(model, probe_ids(model), 1.0, policy.supports_tree_attention).cpu()
    return lambda ids, temperature: torch.log_softmax(every[: len(ids)] / temperature, -1).numpy()


def _diff_after_update(engine: Engine, policy: Policy, score: Score, processes: DistContext = SINGLE_PROCESS) -> float:
    """How far the engine is from the policy after an update like that of every step, sleep included."""
    engine.sleep()
    give_weights(engine, policy.model, processes)
    return _logprob_diff(engine, policy, score, SamplingParams(temperature=0.0))


def _logprob_diff(engine: Engine, policy: Policy, score: Score, sampling: SamplingParams) -> float:
    """How far the engine's log-probabilities are from the policy's."""
    ids = probe_ids(policy.model).cpu().numpy().astype(np.int32)[: engine.max_model_len - 1]
    return max_logprob_diff(engine, score, ids, sampling)
