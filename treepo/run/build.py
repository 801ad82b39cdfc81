"""From settings to a run: builds its parts and wires them together."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from treepo.config.schema import Config
from treepo.data.problem import Task
from treepo.distributed import DistContext, Job, resolve_device
from treepo.evaluate.answering import AnswersCallback, Validation, ignore_answers
from treepo.learn.trainer import Trainer
from treepo.model.fsdp import Sharding, gathered_copy, is_sharded, mixed_precision, reshard, shard, unsharded
from treepo.model.policy import Policy
from treepo.run.length import with_epochs
from treepo.run.parts import (
    NOTHING,
    HandedOver,
    base_model_path,
    build_policy,
    close_parts,
    engine_for,
)
from treepo.run.task import build_task, check_trainable
from treepo.run.trainer import build_reference, build_scorer, build_trainer, build_updater
from treepo.utils import ProgressCallback
from treepo.utils.numeric import derive_seed
from treepo.utils.signals import PhaseCallback, no_progress


@dataclass(frozen=True)
class Run:
    """The parts of one training run, in one of its processes. Whoever builds it closes it."""

    config: Config
    policy: Policy
    task: Task
    trainer: Trainer
    job: Job

    @property
    def processes(self) -> DistContext:
        """The processes that train together."""
        return self.job.processes

    def evaluate(
        self,
        growing: Callable[[], AbstractContextManager[object]] = nullcontext,
        progress: PhaseCallback = no_progress,
        on_answers: AnswersCallback = ignore_answers,
        step: int = 0,
    ) -> dict[str, float]:
        """Metrics of held-out problems after a step; see Validation."""
        settings = self.config.eval
        validation = Validation(
            task=self.task,
            problems=self.task.eval_problems(settings.num_problems),
            decode=self.policy.decode,
            response_len=self.config.tree.max_response_tokens,
            num_samples=settings.num_samples,
            seed=derive_seed(self.config.train.seed, "eval"),
            processes=self.processes,
            reward=self.trainer.reward,
            state=self.trainer.state(step),
            repetition_penalty=settings.repetition_penalty,
            turns=self.trainer.sampler.rules.turns,
        )
        with self.trainer.serving():
            return validation.metrics(self.trainer.engine, growing, progress, on_answers)

    def keep(self, write: Callable[[Policy], None]) -> None:
        """Let the first process write a policy that has all weights, while the others wait for it."""
        with self.processes.synced_errors():
            policy = replace(self.policy, model=gathered_copy(self.policy.model, self.processes.is_first))
            if self.processes.is_first:
                write(policy)

    def close(self) -> None:
        """Close the engine and end the verifier's processes, and what still grows with them."""
        try:
            close_parts(self.trainer.engine, self.task)
        finally:
            self.trainer.ahead.close()


def build_run(config: Config, progress: ProgressCallback, job: Job | None = None, handed: HandedOver = NOTHING) -> Run:
    """Load or make everything that a run needs.

    progress: called while the base model is made. job: the processes of the run; this one alone if not given. handed:
    what a program gives itself. Raises SettingError for a setting that cannot work.
    """
    check_trainable(config)
    job = job or Job(resolve_device(config.model.device))
    with job.processes.synced_errors():
        # One process makes the base model, if it is not there yet.
        if job.processes.is_first and handed.model is None:
            base_model_path(config, progress)
    sharding = None
    if job.mesh is not None:
        types = mixed_precision(config.processes.param_dtype, config.processes.reduce_dtype)
        sharding = Sharding(job.mesh, types)
    # Adapters and a frozen reference are made of whole weights.
    is_whole = config.lora.is_given or config.penalties.needs_reference
    policy = build_policy(config, progress, job.device, handed, None if is_whole else sharding)
    scorer, reference = build_scorer(config, policy, job.processes), build_reference(config, policy, job.mesh)
    if is_sharded(policy.model):
        # Trying it left embeddings gathered.
        reshard(policy.model)
    elif sharding is not None:
        shard(policy.model, sharding.mesh, precision=sharding.precision)
    # The embedded engine looks at whole weights.
    with unsharded(policy.model) if config.engine.kind == "embedded" else nullcontext():
        engine = engine_for(config, policy, job.processes)
    task = None
    try:
        task = build_task(config, policy, engine.max_model_len, handed.records)
        config = with_epochs(config, task)
        updater = build_updater(config, scorer, reference)
        trainer = build_trainer(config, policy, task, engine, updater, environment=handed.environment)
        return Run(config, policy, task, trainer, job)
    except BaseException:
        close_parts(engine, task)
        raise
