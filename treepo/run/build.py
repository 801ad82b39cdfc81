"""From settings to parts: the policy, the task, the engine, the sampler and the trainer, wired together."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch

from treepo.config.schema import Config
from treepo.data.problem import Task
from treepo.distributed import SINGLE_PROCESS, DistContext, Job
from treepo.engine.base import Engine
from treepo.errors import UnsupportedAttentionError
from treepo.evaluate.validation import Validation
from treepo.grow.growth import GrowthRules
from treepo.grow.sampler import TreeSampler
from treepo.learn.optim import make_optimizer
from treepo.learn.scoring import Scorer
from treepo.learn.train_state import TrainState
from treepo.learn.trainer import Trainer
from treepo.learn.updater import AdapterOff, FrozenCopy, Reference, Updater
from treepo.model.compatibility import has_plain_head
from treepo.model.fsdp import meta_copy, shard, unsharded
from treepo.model.lora import add_adapter, has_adapter
from treepo.model.policy import Policy, load_policy, recompute_activations
from treepo.run.engine import build_engine, check_align
from treepo.run.task import Notify, build_task
from treepo.tasks.base_model import Report, find_or_make_base_model
from treepo.utils.cache import default_cache_folder
from treepo.utils.rng import derive_seed
from treepo.verify.task import VerifiedTask


@dataclass(frozen=True)
class Run:
    """The parts of one training run, in one of its processes."""

    config: Config
    policy: Policy
    task: Task
    trainer: Trainer
    job: Job

    @property
    def processes(self) -> DistContext:
        """Those that train together."""
        return self.job.processes

    def evaluate(self, growing: Callable[[], AbstractContextManager[object]] = nullcontext) -> dict[str, float]:
        """Figures of held-out problems; see Validation."""
        settings, limit = self.config.eval, self.config.tree.response_limit
        problems = self.task.eval_problems(settings.num_problems)
        seed = derive_seed(self.config.train.seed, "eval")
        held_out = Validation(
            self.task, problems, self.policy.decode, limit, settings.num_samples, seed, self.processes
        )
        with unsharded(self.policy.model):
            return held_out.metrics(self.trainer.engine, growing)

    @property
    def train_state(self) -> TrainState:
        """The state that training changes."""
        updater = self.trainer.updater
        return TrainState(self.policy.model, updater.optimizer, updater.schedule, self.processes)

    def keep(self, write: Callable[[], None]) -> None:
        """Let the first process write what needs all weights, and the others wait for it."""
        with unsharded(self.policy.model), self.processes.synced_errors():
            if self.processes.is_first:
                write()

    def close(self) -> None:
        """End the processes that check answers."""
        if isinstance(self.task, VerifiedTask):
            self.task.close()


def build_run(config: Config, notify: Notify, report: Report, job: Job | None = None) -> Run:
    """Load or make everything a run needs.

    notify: told in a line what was dropped. report: called while the base model is made. job: the processes of the run;
    this one alone if not given. Raises ValueError naming the setting that cannot work.
    """
    if config.data.is_given and not config.data.train:
        raise ValueError("data.train: no set to train on; sets that are held out are for treepo eval")
    job = job or Job(config.model.device)
    with job.processes.synced_errors():
        # The base model is made once, where it is not there yet.
        if job.processes.is_first:
            base_model_path(config, report)
    policy = build_policy(config, notify, report, job.device)
    scorer, reference = build_scorer(config, policy, job.processes), build_reference(config, policy)
    if job.mesh is not None:
        policy = replace(policy, meta_model=meta_copy(policy.model))
        shard(policy.model, job.mesh)
        if isinstance(reference, FrozenCopy):
            shard(reference.model, job.mesh, is_trained=False)
    with unsharded(policy.model):
        engine = engine_for(config, policy, job.processes)
    task = build_task(config, policy, engine.max_model_len, notify)
    updater = build_updater(config, scorer, reference)
    return Run(config, policy, task, build_trainer(config, policy, task, engine, updater), job)


def base_model_path(config: Config, report: Report) -> str:
    """The model that is named, or the built-in task's base model, made if it is not there."""
    if config.data.is_given and not config.model.path:
        named = (config.data.train or config.data.eval)[0]
        raise ValueError(f"model.path: the problems of {named!r} need a model; none is given")
    return config.model.path or find_base_model(report)


def build_policy(config: Config, notify: Notify, report: Report, device: str | None = None) -> Policy:
    """The model that is named, or the built-in task's base model, with adapters if they are what is trained.

    device: model.device if not given. A model that cannot be packed is taken as transformers runs it, and that is said.
    """
    path, settings = base_model_path(config, report), config.model
    how = path, settings.dtype, device or settings.device, settings.trust_remote_code
    policy, reason = None, ""
    try:
        policy = load_policy(*how)
    except UnsupportedAttentionError as error:
        reason = error.message
    if policy is None:
        # Not while the error is handled: it keeps what was loaded alive.
        policy = load_policy(*how, packable=False)
        notify(f"nothing is shared: trajectories are sampled and trained one by one, since {reason}")
    if config.lora.rank:
        add_adapter(policy.model, config.lora, derive_seed(config.train.seed, "adapter"))
    if config.train.gradient_checkpointing:
        recompute_activations(policy.model)
    return policy


def find_base_model(report: Report) -> str:
    """The folder of the built-in task's base model, made if it is not there."""
    folder = default_cache_folder()
    try:
        return str(find_or_make_base_model(folder, seed=0, report=report))
    except OSError as error:
        raise ValueError(f"TREEPO_CACHE: cannot keep the base model in {str(folder)!r}: {error}") from error


def engine_for(config: Config, policy: Policy, processes: DistContext = SINGLE_PROCESS) -> Engine:
    """The engine of a run; see build_engine."""
    if config.engine.kind == "vllm" and processes.world_size > 1:
        raise ValueError("engine.kind: 'vllm' is for one process; several need 'embedded' or 'servers'")
    if config.engine.kind == "vllm":
        check_align("tree.align", config.tree.align, config.vllm.block_size_on(policy.model.device.type))
    return build_engine(
        policy,
        config.engine,
        vllm=config.vllm,
        servers=config.servers,
        max_model_len=config.data.max_prompt_len + config.tree.response_limit,
        eos_ids=policy.eos_ids,
        autocast=autocast_of(config),
        recompute_old_logprobs=config.train.recompute_old_logprobs,
        trust_remote_code=config.model.trust_remote_code,
        processes=processes,
    )


def autocast_of(config: Config) -> torch.dtype | None:
    """The type of the matrix products, if it is not that of the weights."""
    return torch.bfloat16 if config.train.autocast == "bfloat16" else None


def build_sampler(config: Config, policy: Policy, engine: Engine) -> TreeSampler:
    """What grows trees as the settings say."""
    rules = GrowthRules(
        config.tree, config.initial_fork, config.branching, config.fallback, config.stopping, policy.decode
    )
    return TreeSampler(engine, rules, config.engine.sampling_params)


def build_trainer(config: Config, policy: Policy, task: Task, engine: Engine, updater: Updater) -> Trainer:
    """The trainer of a policy on a task over an engine."""
    return Trainer(
        policy,
        task,
        engine,
        build_sampler(config, policy, engine),
        config.credit,
        updater,
        config.train.prompts_per_step,
        config.train.num_mini_batches,
        config.train.num_iterations,
        config.dynamic_sampling,
        config.train.seed,
        config.reward,
        updater.processes,
    )


def build_scorer(config: Config, policy: Policy, processes: DistContext = SINGLE_PROCESS) -> Scorer:
    """What scores packed trees under a policy that is not sharded yet."""
    has_head = has_plain_head(policy.model, policy.supports_tree_attention)
    how = config.engine.temperature, has_head, policy.supports_tree_attention, autocast_of(config)
    return Scorer(policy.model, *how, processes=processes)


def build_reference(config: Config, policy: Policy) -> Reference | None:
    """What a penalty refers to, if there is one, made before the policy is sharded."""
    if not config.penalties.kl_coef:
        return None
    return AdapterOff(policy.model) if has_adapter(policy.model) else FrozenCopy.of(policy.model)


def build_updater(config: Config, scorer: Scorer, reference: Reference | None) -> Updater:
    """What turns compute_advantages trees into updates of the model that is scored."""
    settings = config.train
    optimizer, schedule = make_optimizer(scorer.model, config.optim)
    return Updater(
        scorer,
        config.loss,
        config.aggregation,
        config.penalties,
        optimizer,
        schedule,
        settings.max_tokens_per_micro_batch,
        config.optim.max_grad_norm,
        settings.packing and scorer.supports_tree_attention,
        settings.recompute_old_logprobs,
        settings.importance_cap,
        reference,
        processes=scorer.processes,
    )
