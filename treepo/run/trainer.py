"""From settings to what learns: the scorer, the reference of a KL penalty, the updater and the trainer."""

import logging
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel

from treepo.config.schema import Config
from treepo.data.problem import Task
from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.engine.base import Engine
from treepo.learn.optim import make_optimizer
from treepo.learn.scoring import Scorer
from treepo.learn.trainer import Trainer
from treepo.learn.updater import Updater
from treepo.model.compatibility import has_plain_head, training_settings_ignored
from treepo.model.fsdp import mixed_precision, shard
from treepo.model.lora import has_adapter
from treepo.model.norms import use_fused_norms
from treepo.model.policy import Policy
from treepo.run.parts import autocast_of, reward_of
from treepo.run.sampler import build_sampler

logger = logging.getLogger(__name__)


def build_scorer(config: Config, policy: Policy, processes: DistContext = SINGLE_PROCESS) -> Scorer:
    """The scorer of packed trees under a policy that is not sharded yet."""
    if ignored := training_settings_ignored(policy.model.config):
        logger.info("the model is trained without its dropout, noise and auxiliary losses: %s", ", ".join(ignored))
    use_fused_norms(policy.model)
    return Scorer(
        policy.model,
        temperature=config.engine.temperature,
        has_plain_head=has_plain_head(policy.model, policy.supports_tree_attention),
        supports_tree_attention=policy.supports_tree_attention,
        autocast=autocast_of(config, policy.model),
        processes=processes,
    )


def build_reference(config: Config, policy: Policy, mesh: DeviceMesh | None = None) -> PreTrainedModel | None:
    """The reference of a KL penalty (see `Updater`), if there is one, made before the policy is sharded."""
    if not config.penalties.needs_reference:
        return None
    if has_adapter(policy.model):
        return policy.model
    reference = deepcopy(policy.model).requires_grad_(False)
    if mesh is not None:
        types = mixed_precision(config.processes.param_dtype)
        shard(reference, mesh, is_trained=False, precision=types)
    return reference


def build_updater(config: Config, scorer: Scorer, reference: PreTrainedModel | None) -> Updater:
    """The updater of the model that is scored, with its optimizer."""
    settings = config.train
    optimizer, schedule = make_optimizer(scorer.model, config.optim, settings.num_updates)
    return Updater(
        scorer=scorer,
        loss=config.loss,
        aggregation=config.aggregation,
        penalties=config.penalties,
        optimizer=optimizer,
        schedule=schedule,
        max_tokens_per_micro_batch=settings.max_tokens_per_micro_batch,
        max_grad_norm=config.optim.max_grad_norm,
        packing=settings.packing and scorer.supports_tree_attention,
        recompute_old_logprobs=settings.recompute_old_logprobs,
        importance_cap=settings.importance_cap,
        mask_truncated_completions=settings.mask_truncated_completions,
        num_updates=settings.num_updates,
        reference=reference,
        processes=scorer.processes,
    )


def build_trainer(
    config: Config,
    policy: Policy,
    task: Task,
    engine: Engine,
    updater: Updater,
    environment: Callable[[], Any] | None = None,
) -> Trainer:
    """The trainer of a policy on a task, with trees over an engine. environment: the factory of a program."""
    processes = updater.processes
    sampler = build_sampler(config, policy, engine, task.answers, processes=processes, environment=environment)
    return Trainer(
        policy=policy,
        task=task,
        engine=engine,
        sampler=sampler,
        estimator=config.credit,
        updater=updater,
        prompts_per_step=config.train.prompts_per_step,
        num_mini_batches=config.train.num_mini_batches,
        num_iterations=config.train.num_iterations,
        dynamic_sampling=config.dynamic_sampling,
        seed=config.train.seed,
        reward=reward_of(config, task),
        num_steps=config.train.num_steps,
        processes=processes,
        overlap=config.train.overlap > 0,
    )
