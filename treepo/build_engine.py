"""From settings to the engine: the embedded one, vLLM in this process, or vLLM's servers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from treepo.engine import Engine, Sampling
from treepo.engine.agreement import largest_gap
from treepo.engine.plain import PlainEngine
from treepo.engine.servers import DiskSync, NcclSync, ServerEngine, ServerSettings
from treepo.engine.torch import TorchEngine
from treepo.engine.torch.memory import affordable_tokens
from treepo.engine.vllm import RowStreams, VllmEngine, VllmLimits, VllmSettings, start_vllm
from treepo.model.policy import Policy
from treepo.model.served import TOLERANCE, probe_ids, sequence_logprobs
from treepo.settings import EngineSettings


@dataclass(frozen=True)
class EngineNeeds:
    """What an engine is for.

    longest: tokens of the longest prompt and response. eos_ids: what ends a response. autocast: type of the trainer's
    matrix products, if it is not that of the weights. rescoring: whether the trainer computes log-probabilities itself.
    """

    longest: int
    eos_ids: Sequence[int]
    autocast: torch.dtype | None = None
    rescoring: bool = False


def build_engine(
    policy: Policy,
    settings: EngineSettings,
    vllm: VllmSettings,
    servers: ServerSettings,
    needs: EngineNeeds,
    trust_remote_code: bool = False,
) -> Engine:
    """The engine that `engine.kind` names, with the policy's weights.

    Raises ValueError naming the setting for an engine that cannot be had, or that computes something else than the
    policy.
    """
    if settings.kind == "embedded":
        return _embedded(policy, settings, needs)
    if settings.kind == "vllm":
        engine: VllmEngine | ServerEngine = _vllm(policy, settings, vllm, needs, trust_remote_code)
        engine.update_weights(policy.model)
    else:
        engine = _servers(policy, settings, servers, needs)
        # They may have what an earlier run left them.
        if not _gap(engine, policy, Sampling(temperature=0.0)) <= TOLERANCE[policy.model.dtype]:
            engine.update_weights(policy.model)
    narrow = vllm.dtype == "bfloat16" or settings.kind == "servers"
    _check_agreement(engine, policy, settings, TOLERANCE[torch.bfloat16 if narrow else policy.model.dtype], needs)
    return engine


def sampling_of(settings: EngineSettings) -> Sampling:
    """How tokens are drawn in training."""
    return Sampling(settings.temperature, settings.top_k, settings.top_p, settings.min_p)


def _embedded(policy: Policy, settings: EngineSettings, needs: EngineNeeds) -> TorchEngine | PlainEngine:
    """The engine over the policy's own model, or the plain one for a model that it cannot serve."""
    if not policy.is_packable:
        return PlainEngine(policy.model, needs.eos_ids, settings.max_batch, needs.autocast)
    sizes = settings.max_batch, settings.max_prefill_tokens, settings.max_tokens
    return TorchEngine(policy.model, needs.eos_ids, *sizes, needs.autocast)


def _vllm(
    policy: Policy, settings: EngineSettings, vllm: VllmSettings, needs: EngineNeeds, trust_remote_code: bool
) -> VllmEngine:
    longest = vllm.max_len or min(needs.longest, policy.max_len or needs.longest)
    max_tokens, on_cpu = settings.max_tokens, policy.model.device.type == "cpu"
    if max_tokens is None and on_cpu:
        max_tokens = max(min(affordable_tokens(policy.model), settings.max_batch * longest), longest)
    limits = VllmLimits(longest, settings.max_batch, settings.max_prefill_tokens, max_tokens)
    streams = RowStreams()
    try:
        core = start_vllm(vllm, limits, policy.model, trust_remote_code, streams)
    except ValueError as error:
        raise ValueError(f"engine.{error}") from error
    return VllmEngine(core, streams, needs.eos_ids, can_sleep=vllm.sleep and not on_cpu)


def _servers(policy: Policy, settings: EngineSettings, servers: ServerSettings, needs: EngineNeeds) -> ServerEngine:
    if servers.sync == "nccl" and policy.model.device.type != "cuda":
        raise ValueError("servers.sync: 'nccl' needs the model on a GPU (model.device); use 'disk'")
    sync = NcclSync(servers.address) if servers.sync == "nccl" else DiskSync(servers.folder)
    # vLLM refuses tokens that a tokenizer has beyond the model's.
    eos_ids = [i for i in needs.eos_ids if i < policy.model.config.get_text_config().vocab_size]
    engine = ServerEngine(servers, sync, eos_ids, settings.max_batch)
    try:
        engine.connect()
    except ValueError as error:
        raise ValueError(f"servers.{error}") from error
    return engine


def _check_agreement(
    engine: Engine, policy: Policy, settings: EngineSettings, tolerance: float, needs: EngineNeeds
) -> None:
    """Raise ValueError unless the engine reports the policy's own log-probabilities, as the loss needs them."""
    name = "vLLM" if settings.kind == "vllm" else "the servers"
    gap = _gap(engine, policy, Sampling(temperature=0.0))
    if not gap <= tolerance:
        raise ValueError(f"engine.kind: log-probabilities of {name} are off by {gap:.2g}: it is another model")
    gap = _gap(engine, policy, sampling_of(settings))
    if not gap <= tolerance and not needs.rescoring:
        raise ValueError(
            f"engine.kind: log-probabilities of {name} are off by {gap:.2g} at these temperature, top_k, top_p, min_p; "
            "set train.rescoring, or, at a temperature alone, start servers with --logprobs-mode processed_logprobs"
        )


def _gap(engine: Engine, policy: Policy, sampling: Sampling) -> float:
    """How far the engine's log-probabilities are from the policy's."""
    model = policy.model

    def score(ids: np.ndarray, temperature: float) -> np.ndarray:
        tensor = torch.from_numpy(ids).long().to(model.device)
        return sequence_logprobs(model, tensor, temperature, policy.is_packable).cpu().numpy()

    ids = probe_ids(model).cpu().numpy().astype(np.int32)[: engine.longest - 1]
    return largest_gap(engine, score, ids, sampling)
