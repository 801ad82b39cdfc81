"""From settings to the engine: the embedded one, vLLM in this process, or vLLM's servers."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
import torch

from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.engine.base import Engine, SamplingParams, max_logprob_diff
from treepo.engine.server.engine import ServerEngine
from treepo.engine.server.weight_sync import DiskSync, NcclSync
from treepo.engine.settings import EngineSettings, ServerSettings, VllmSettings
from treepo.engine.torch.engine import TorchEngine
from treepo.engine.torch.kv_cache import affordable_tokens
from treepo.engine.transformers import TransformersEngine
from treepo.engine.vllm.engine import RequestGenerators, VllmEngine
from treepo.engine.vllm.start import VllmLimits, reason, start_vllm
from treepo.errors import EngineError
from treepo.model.compatibility import TOLERANCE, probe_ids, sequence_logprobs
from treepo.model.policy import Policy

HOTTEST_SERVER = 2.0
"""Highest temperature that vLLM's servers sample at."""


@dataclass(frozen=True)
class EngineNeeds:
    """What an engine is for.

    longest: tokens of the longest prompt and response. eos_ids: what ends a response. autocast: type of the trainer's
    matrix products, if it is not that of the weights. recompute_old_logprobs: whether the trainer computes log-probabilities itself.
    """

    longest: int
    eos_ids: Sequence[int]
    autocast: torch.dtype | None = None
    recompute_old_logprobs: bool = False


def build_engine(
    policy: Policy,
    settings: EngineSettings,
    vllm: VllmSettings,
    servers: ServerSettings,
    needs: EngineNeeds,
    trust_remote_code: bool = False,
    processes: DistContext = SINGLE_PROCESS,
) -> Engine:
    """The engine that `engine.kind` names, with the policy's weights. processes: those of which each has one.

    Raises ValueError naming the setting for an engine that cannot be had, or that computes something else than the
    policy.
    """
    if settings.kind == "embedded":
        return _embedded(policy, settings, needs)
    if settings.kind == "servers":
        servers_engine = _servers(policy, settings, servers, needs, processes)
        try:
            _check_servers(servers_engine, policy, settings, needs)
        except ValueError:
            servers_engine.close()
            raise
        return servers_engine
    engine = _vllm(policy, settings, vllm, needs, trust_remote_code)
    kind = policy.model.config.model_type
    try:
        gap = _updated_gap(engine, policy)
    except Exception as error:
        # Some models are refused only when they run.
        raise ValueError(f"engine.kind: vLLM cannot run {kind!r}: {reason(error)}") from error
    if not gap <= TOLERANCE[torch.bfloat16 if vllm.dtype == "bfloat16" else policy.model.dtype]:
        raise ValueError(
            f"engine.kind: vLLM does not compute what {kind!r} does: log-probabilities are off by {gap:.2g}"
        )
    return engine


def check_align(setting: str, align: int, block_size: int) -> None:
    """Raise ValueError naming the setting if what forks are aligned to is no number of whole blocks."""
    if align > 1 and align % block_size:
        raise ValueError(f"{setting}: must be a multiple of the {block_size} tokens of vLLM's blocks, got {align}")


def sampling_of(settings: EngineSettings) -> SamplingParams:
    """How tokens are drawn in training."""
    return SamplingParams(settings.temperature, settings.top_k, settings.top_p, settings.min_p)


def _embedded(policy: Policy, settings: EngineSettings, needs: EngineNeeds) -> TorchEngine | TransformersEngine:
    """The engine over the policy's own model, or the plain one for a model that it cannot serve."""
    if not policy.supports_tree_attention:
        return TransformersEngine(policy.model, needs.eos_ids, settings.max_num_seqs, needs.autocast)
    sizes = settings.max_num_seqs, settings.max_num_batched_tokens, settings.max_cache_tokens
    return TorchEngine(policy.model, needs.eos_ids, *sizes, needs.autocast)


def _vllm(
    policy: Policy, settings: EngineSettings, vllm: VllmSettings, needs: EngineNeeds, trust_remote_code: bool
) -> VllmEngine:
    longest = vllm.max_model_len or min(needs.longest, policy.max_len or needs.longest)
    max_cache_tokens, on_cpu = settings.max_cache_tokens, policy.model.device.type == "cpu"
    if max_cache_tokens is None and on_cpu:
        # Room for trees that wait for their slowest path beside those that decode.
        max_cache_tokens = max(min(affordable_tokens(policy.model), 4 * settings.max_num_seqs * longest), longest)
    limits = VllmLimits(longest, settings.max_num_seqs, settings.max_num_batched_tokens, max_cache_tokens)
    streams = RequestGenerators()
    try:
        core = start_vllm(vllm, limits, policy.model, trust_remote_code, streams)
    except ValueError as error:
        raise ValueError(f"engine.{error}") from error
    return VllmEngine(core, streams, needs.eos_ids, can_sleep=vllm.sleep and not on_cpu)


def _servers(
    policy: Policy, settings: EngineSettings, servers: ServerSettings, needs: EngineNeeds, processes: DistContext
) -> ServerEngine:
    if settings.temperature > HOTTEST_SERVER:
        raise ValueError(f"engine.temperature: servers take at most {HOTTEST_SERVER}, got {settings.temperature}")
    if servers.sync == "nccl" and policy.model.device.type != "cuda":
        raise ValueError("servers.sync: 'nccl' needs the model on a GPU (model.device); use 'disk'")
    sync = NcclSync(servers.address) if servers.sync == "nccl" else DiskSync(servers.folder)
    # vLLM refuses tokens that a tokenizer has beyond the model's.
    eos_ids = [i for i in needs.eos_ids if i < policy.model.config.get_text_config().vocab_size]
    name = processes.broadcast(f"treepo-{uuid4().hex}")
    engine = ServerEngine(servers, sync, eos_ids, settings.max_num_seqs, name, leads=processes.is_first)
    try:
        engine.connect()
    except ValueError as error:
        raise ValueError(f"servers.{error}") from error
    return engine


def _updated_gap(engine: VllmEngine | ServerEngine, policy: Policy) -> float:
    """How far the engine is from the policy after an update as there is one in every step, sleep and all."""
    engine.sleep()
    engine.update_weights(policy.model)
    return _gap(engine, policy, SamplingParams(temperature=0.0))


def _check_servers(engine: ServerEngine, policy: Policy, settings: EngineSettings, needs: EngineNeeds) -> None:
    """Raise ValueError unless servers report the policy's own log-probabilities, as the loss needs them."""
    tolerance = TOLERANCE[torch.bfloat16]
    try:
        gap = _updated_gap(engine, policy)
    except EngineError as error:
        raise ValueError(str(error)) from error
    if not gap <= tolerance:
        raise ValueError(f"servers.urls: log-probabilities are off by {gap:.2g}: they serve another kind of model")
    gap = _gap(engine, policy, sampling_of(settings))
    if not gap <= tolerance / min(settings.temperature, 1.0) and not needs.recompute_old_logprobs:
        raise ValueError(
            f"servers.urls: log-probabilities are off by {gap:.2g} at these temperature, top_k, top_p and min_p; set "
            "train.recompute_old_logprobs, or, at a temperature alone, start servers with --logprobs-mode processed_logprobs"
        )


def _gap(engine: Engine, policy: Policy, sampling: SamplingParams) -> float:
    """How far the engine's log-probabilities are from the policy's."""
    model = policy.model

    def score(ids: np.ndarray, temperature: float) -> np.ndarray:
        tensor = torch.from_numpy(ids).long().to(model.device)
        return sequence_logprobs(model, tensor, temperature, policy.supports_tree_attention).cpu().numpy()

    ids = probe_ids(model).cpu().numpy().astype(np.int32)[: engine.max_model_len - 1]
    return max_logprob_diff(engine, score, ids, sampling)
