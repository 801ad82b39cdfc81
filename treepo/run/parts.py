"""From settings to what training, evaluation and sampling share: the policy and the engine."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from treepo.config.schema import Config
from treepo.data.locations import Records
from treepo.data.problem import Task
from treepo.distributed import SINGLE_PROCESS, DistContext, resolve_device
from treepo.engine.base import Engine
from treepo.errors import UnsupportedAttentionError
from treepo.model.adapters import add_adapter
from treepo.model.linear_maps import is_fast_in_bfloat16
from treepo.model.policy import Policy, Sharding, adopt_policy, load_policy, recompute_activations
from treepo.run.engine import build_engine, check_vllm_settings
from treepo.run.model_path import base_model_path
from treepo.utils import ProgressCallback
from treepo.utils.numeric import derive_seed
from treepo.verify.rewards import Reward, ShapedReward
from treepo.verify.task import VerifiedTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class HandedOver:
    """What a program gives itself instead of naming it in settings.

    model, tokenizer: loaded ones, which are trained in place. records: rows, by what stands for them in the settings.
    environment: makes environments.
    """

    model: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    records: Mapping[str, Records] = field(default_factory=dict)
    environment: Callable[[], Any] | None = None


NOTHING = HandedOver()


def build_policy(
    config: Config,
    progress: ProgressCallback,
    device: str | None = None,
    handed: HandedOver = NOTHING,
    sharding: Sharding | None = None,
) -> Policy:
    """The model that is named or handed over, or the built-in task's base model, with adapters if they are trained.

    device: model.device if not given; that of a model that is handed over stays. sharding: how a
    model that is named is divided as its weights are read. A model whose attention cannot follow
    a tree runs as transformers runs it, with a warning.
    """
    if handed.model is not None:
        assert handed.tokenizer is not None, "the front door asks for one"
        model = handed.model
        _log_model(type(model).__name__, model.device.type, str(model.dtype).removeprefix("torch."))
        load = partial(adopt_policy, model, handed.tokenizer)
    else:
        path, settings = base_model_path(config, progress), config.model
        device = resolve_device(device or settings.device)
        _log_model(path, device, settings.dtype)
        load = partial(
            load_policy,
            path,
            dtype=settings.dtype,
            device=device,
            revision=settings.revision,
            tokenizer=settings.tokenizer,
            attn_implementation=settings.attn_implementation,
            trust_remote_code=settings.trust_remote_code,
            load_in_4bit=config.lora.load_in_4bit,
            sharding=sharding,
        )
    policy, reason = None, ""
    try:
        policy = load()
    except UnsupportedAttentionError as error:
        reason = error.message
    if policy is None:
        # Not while the error is handled: it keeps what was loaded alive.
        policy = load(packable=False)
        logger.warning("nothing is shared: trajectories are sampled and trained one by one, since %s", reason)
    if not policy.eos_ids:
        logger.warning(
            "the model has no end-of-sequence token in its vocabulary (see eos_token_id of generation_config.json and "
            'the eos_token of the tokenizer): answers end at a complete answer, with stopping.answer = "answer", or at '
            "the longest response"
        )
    if config.lora.is_given:
        add_adapter(policy.model, config.lora, derive_seed(config.train.seed, "adapter"))
    if config.train.autocast == "auto" and policy.model.dtype == torch.float32:
        dtype = "float32" if autocast_of(config, policy.model) is None else "bfloat16"
        logger.info('matrix products are computed in %s, which is faster here (train.autocast = "auto")', dtype)
    if config.train.gradient_checkpointing:
        recompute_activations(policy.model)
    return policy


def _log_model(name: str, device: str, dtype: str) -> None:
    threads = f", {torch.get_num_threads()} threads" if device == "cpu" else ""
    logger.info("model %s on %s, %s%s", name, device, dtype, threads)


def autocast_of(config: Config, model: PreTrainedModel) -> torch.dtype | None:
    """The type of the model's matrix products, if it is not that of the weights."""
    if config.train.autocast == "auto":
        is_fast = model.dtype == torch.float32 and is_fast_in_bfloat16(model.device)
        return torch.bfloat16 if is_fast else None
    return torch.bfloat16 if config.train.autocast == "bfloat16" else None


def engine_for(config: Config, policy: Policy, processes: DistContext = SINGLE_PROCESS) -> Engine:
    """The engine of a run; see build_engine. Whoever builds it closes it."""
    if config.engine.kind == "vllm":
        check_vllm_settings("tree.align", config.tree.align, config.vllm, policy.model.device.type)
    return build_engine(
        policy,
        config.engine,
        vllm=config.vllm,
        servers=config.servers,
        max_model_len=config.data.max_prompt_len
        + config.tree.max_response_tokens
        + config.environment.num_observed_tokens,
        eos_ids=policy.eos_ids,
        autocast=autocast_of(config, policy.model),
        # Importance weights need the engine's log-probabilities, too.
        recompute_old_logprobs=config.train.recompute_old_logprobs and not config.train.overlap,
        trust_remote_code=config.model.trust_remote_code,
        processes=processes,
    )


def reward_of(config: Config, task: Task | None = None) -> Reward:
    """The reward, with functions that are named found and loaded. Raises SettingError, also for one that asks for a
    column that the task's problems lack."""
    if not isinstance(config.reward, ShapedReward):
        return config.reward
    if isinstance(task, VerifiedTask):
        task.check_functions(config.reward.functions, bool(config.environment.tool_factory))
    return config.reward.loaded()


def close_parts(engine: Engine, task: Task | None = None) -> None:
    """Close an engine and, if there is one, a task with the processes of its verifier."""
    try:
        engine.close()
    finally:
        if isinstance(task, VerifiedTask):
            task.close()
