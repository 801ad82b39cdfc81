"""From settings to the engine: the embedded one, vLLM in this process, or vLLM's servers."""

import numpy as np
import torch

from treepo.engine import Engine, Sampling
from treepo.engine.agreement import largest_gap
from treepo.engine.plain import PlainEngine
from treepo.engine.servers import DiskSync, NcclSync, ServerEngine
from treepo.engine.torch import TorchEngine
from treepo.engine.torch.memory import affordable_tokens
from treepo.engine.vllm import RowStreams, VllmEngine, VllmLimits, start_vllm
from treepo.model.policy import Policy
from treepo.model.served import TOLERANCE, probe_ids, sequence_logprobs
from treepo.settings import Config, EngineSettings


def build_engine(config: Config, policy: Policy) -> Engine:
    """The engine that `engine.kind` names, with the policy's weights.

    Raises ValueError naming the setting for an engine that cannot be had, or that computes something else than the
    policy.
    """
    match config.engine.kind:
        case "embedded":
            return _embedded(config, policy)
        case "vllm":
            engine: VllmEngine | ServerEngine = _vllm(config, policy)
            engine.update_weights(policy.model)
        case "servers":
            engine = _servers(config, policy)
            if _gap(engine, policy, Sampling(temperature=0.0)) > TOLERANCE[policy.model.dtype]:
                # They may have what an earlier run left them.
                engine.update_weights(policy.model)
    _check_agreement(engine, policy, config)
    return engine


def sampling_of(settings: EngineSettings) -> Sampling:
    """How tokens are drawn in training."""
    return Sampling(settings.temperature, settings.top_k, settings.top_p, settings.min_p)


def autocast_of(config: Config) -> torch.dtype | None:
    """The type of the matrix products, if it is not that of the weights."""
    return torch.bfloat16 if config.train.autocast == "bfloat16" else None


def _embedded(config: Config, policy: Policy) -> TorchEngine | PlainEngine:
    """The engine over the policy's own model, or the plain one for a model that it cannot serve."""
    settings = config.engine
    if not policy.is_packable:
        return PlainEngine(policy.model, policy.eos_ids, settings.max_batch, autocast_of(config))
    sizes = settings.max_batch, settings.max_prefill_tokens, settings.max_tokens
    return TorchEngine(policy.model, policy.eos_ids, *sizes, autocast_of(config))


def _vllm(config: Config, policy: Policy) -> VllmEngine:
    settings, device = config.engine, policy.model.device
    longest = config.vllm.max_len or min(
        config.data.max_prompt_len + config.tree.response_limit, policy.max_len or (1 << 30)
    )
    max_tokens = settings.max_tokens
    if max_tokens is None and device.type == "cpu":
        max_tokens = max(min(affordable_tokens(policy.model), settings.max_batch * longest), longest)
    _check_align(config, config.vllm.block_size_on(device.type))
    limits = VllmLimits(longest, settings.max_batch, settings.max_prefill_tokens, max_tokens)
    streams = RowStreams()
    try:
        core = start_vllm(
            config.vllm,
            limits,
            str(policy.model.name_or_path),
            config.model.dtype,
            str(device),
            config.model.trust_remote_code,
            streams,
        )
    except ValueError as error:
        raise ValueError(f"engine.{error}") from error
    return VllmEngine(core, streams, policy.eos_ids, config.vllm.sleep and device.type != "cpu")


def _servers(config: Config, policy: Policy) -> ServerEngine:
    settings = config.servers
    if settings.sync == "nccl" and policy.model.device.type != "cuda":
        raise ValueError("servers.sync: 'nccl' needs the model on a GPU (model.device); use 'disk'")
    sync = NcclSync(settings.address) if settings.sync == "nccl" else DiskSync(settings.folder)
    engine = ServerEngine(settings, sync, policy.eos_ids, config.engine.max_batch)
    try:
        engine.connect()
    except ValueError as error:
        raise ValueError(f"servers.{error}") from error
    return engine


def _check_align(config: Config, block_size: int) -> None:
    align = config.tree.align
    if align > 1 and align % block_size:
        raise ValueError(f"tree.align: must be a multiple of the {block_size} tokens of vLLM's blocks, got {align}")


def _check_agreement(engine: Engine, policy: Policy, config: Config) -> None:
    """Raise ValueError unless the engine reports the policy's own log-probabilities, as the loss needs them."""
    name = "vLLM" if config.engine.kind == "vllm" else "the servers"
    limit = TOLERANCE[torch.bfloat16 if config.vllm.dtype == "bfloat16" else policy.model.dtype]
    gap = _gap(engine, policy, Sampling(temperature=0.0))
    if gap > limit:
        raise ValueError(
            f"engine.kind: log-probabilities of {name} are off by {gap:.2g}: another model, or other weights"
        )
    gap = _gap(engine, policy, sampling_of(config.engine))
    if gap > limit and not config.train.rescoring:
        raise ValueError(
            f"engine.kind: log-probabilities of {name} are off by {gap:.2g} at these temperature, top_k, top_p, min_p; "
            "set train.rescoring, or, at a temperature alone, start servers with --logprobs-mode processed_logprobs"
        )


def _gap(engine: Engine, policy: Policy, sampling: Sampling) -> float:
    model = policy.model

    def score(ids: np.ndarray, temperature: float) -> np.ndarray:
        tensor = torch.from_numpy(ids).long().to(model.device)
        return sequence_logprobs(model, tensor, temperature, policy.is_packable).cpu().numpy()

    ids = probe_ids(model).cpu().numpy().astype(np.int32)[: engine.longest - 1]
    return largest_gap(engine, score, ids, sampling)
