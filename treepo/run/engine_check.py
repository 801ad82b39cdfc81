"""Whether an engine with a copy of the weights computes what the policy does."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from treepo.distributed import DistContext
from treepo.engine.base import Engine, SamplingParams, Score, max_logprob_diff
from treepo.engine.settings import EngineSettings, VllmSettings
from treepo.engine.weights import give_weights
from treepo.errors import LostError, PeerError, SettingError
from treepo.model.probe import TOLERANCE, probe_ids, sequence_logprobs
from treepo.utils.foreign_errors import vllm_complaint

if TYPE_CHECKING:
    from treepo.model.policy import Policy


def policy_score(policy: "Policy") -> Score:
    """The policy's log-probabilities of the probe's first tokens, computed once; a sharded model's processes do that
    together."""
    model = policy.model
    every = sequence_logprobs(model, probe_ids(model), 1.0, policy.supports_tree_attention).cpu()
    return lambda ids, temperature: torch.log_softmax(every[: len(ids)] / temperature, -1).numpy()


def check_vllm(engine: Engine, policy: "Policy", score: Score, vllm: VllmSettings, processes: DistContext) -> None:
    """Raise SettingError unless vLLM computes the policy's own log-probabilities, in all processes."""
    kind = policy.model.config.model_type
    try:
        diff = _diff_after_update(engine, policy, score, processes)
    except (PeerError, LostError):
        raise
    except Exception as error:
        # Some models are refused only when they run.
        raise SettingError("engine.kind", f"vLLM cannot run {kind!r}: {vllm_complaint(error)}") from error
    if not diff <= TOLERANCE[torch.bfloat16 if vllm.dtype == "bfloat16" else policy.model.dtype]:
        message = f"vLLM does not compute what {kind!r} does: log-probabilities are off by {diff:.2g}"
        raise SettingError("engine.kind", message)


def check_servers(
    engine: Engine,
    policy: "Policy",
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
    diff = _logprob_diff(engine, policy, score, settings.sampling_params, processes)
    if not diff <= tolerance / min(settings.temperature, 1.0) and not recompute_old_logprobs:
        message = (
            f"log-probabilities are off by {diff:.2g} at these temperature, top_k, top_p and min_p; set "
            "train.recompute_old_logprobs, or, at a temperature alone and with train.overlap, start servers with "
            "--logprobs-mode processed_logprobs"
        )
        raise SettingError("servers.urls", message)


def _diff_after_update(engine: Engine, policy: "Policy", score: Score, processes: DistContext) -> float:
    """How far the engine is from the policy after an update like that of every step, sleep included."""
    with processes.synced_errors():
        engine.sleep()
    give_weights(engine, policy.model, processes)
    return _logprob_diff(engine, policy, score, SamplingParams(temperature=0.0), processes)


def _logprob_diff(
    engine: Engine, policy: "Policy", score: Score, sampling: SamplingParams, processes: DistContext
) -> float:
    """How far the engines' log-probabilities are from the policy's, the farthest of all
    processes."""
    ids = probe_ids(policy.model).cpu().numpy().astype(np.int32)[: engine.max_model_len - 1]
    with processes.synced_errors():
        diff = max_logprob_diff(engine, score, ids, sampling)
    return max(processes.all_gather(diff))
