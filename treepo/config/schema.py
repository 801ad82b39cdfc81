"""Every setting of a run, declared once: each section is a frozen dataclass, and the same object does the work."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from treepo.config.libraries import LIBRARIES
from treepo.credit import Estimator, MaxRL, TreePO
from treepo.data.datasets import Mixture
from treepo.data.formats import RecordFormat
from treepo.data.prompts import PromptTemplate
from treepo.engine.settings import EngineSettings, ServerSettings, VllmSettings
from treepo.envs.settings import BUILT_IN, EnvironmentSettings
from treepo.errors import SettingError
from treepo.grow import (
    Backtrack,
    Branching,
    EvenBranching,
    Fallback,
    InitialFork,
    Planned,
    Stopping,
    StopRules,
    TreeShape,
)
from treepo.learn.losses import PPO, Aggregation, Loss, Penalties, TokenMean
from treepo.learn.settings import CheckpointSettings, DynamicSampling, OptimSettings, TrainSettings
from treepo.model.settings import LoraSettings, ModelSettings
from treepo.tasks.settings import TaskSettings
from treepo.verify import MathVerifier, NoVerifier, Verifier, VerifierPoolSettings
from treepo.verify.rewards import Reward, ShapedReward

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class DataSettings(RecordFormat):
    """The problems, and the format of datasets that name none (see docs/data.md)."""

    train: tuple[str, ...] = ()
    """Datasets to train on, each a file, a folder, a dataset of the Hugging Face hub, reasoning_gym:NAME, or
    verifiers:NAME; none for the built-in task."""

    weights: tuple[float, ...] = ()
    """How often each of them is sampled from; if not given, every problem comes once in each epoch, or, where one of
    them has no end, all are sampled from alike."""

    eval: tuple[str, ...] = ()
    """Datasets to evaluate on; if not given, one problem in ten of `train` is held out, `eval_size` of a dataset
    without an end."""

    eval_seed: int = 0
    """Seed of the held-out problems of datasets without an end (reasoning_gym:...); that of training is train.seed."""

    eval_size: Count = 200
    """Held-out problems of each such dataset."""

    max_prompt_len: Count = 1024
    """Problems with more prompt tokens are dropped."""

    on_bad_record: Literal["error", "skip"] = "error"
    """Whether a record that cannot be used ends the run, or is passed over, counted and named in the log."""

    @property
    def is_given(self) -> bool:
        """Whether there are problems other than those of the built-in task."""
        return bool(self.train or self.eval)

    @property
    def own_fields(self) -> list[str]:
        """Settings of the record format that differ from the defaults."""
        return [f.name for f in fields(RecordFormat) if getattr(self, f.name) != f.default]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weights:
            return
        # None: a program may still give them.
        if self.train and len(self.weights) != len(self.train):
            raise SettingError("weights", f"needs a number for each of {len(self.train)} datasets", list(self.weights))
        # Raises here, before anything is loaded.
        Mixture(self.weights)


@dataclass(frozen=True)
class EvalSettings:
    """Held-out accuracy, before and after training."""

    num_problems: Annotated[int, Field(ge=0, le=1_000_000)] = 400
    """Held-out problems; fewer if there are fewer, 0 for no evaluation."""

    num_samples: Annotated[int, Field(ge=1, le=1_000_000)] = 2
    """Answers per problem, at temperature 1."""

    repetition_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Divide the positive logits of tokens that occur in the prompt or the answer so far by this and multiply the
    negative ones by it, as vLLM and transformers do; 1 for none. Training samples without one."""

    at_start: bool = True
    """Evaluate before training, too."""

    every: Annotated[int, Field(ge=0)] = 0
    """Steps between evaluations during training; 0 for none."""

    keep_best: bool = False
    """Keep the model with the highest eval/avg, in best/."""

    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after so many evaluations in a row without a better eval/avg; 0 for never. Needs `every`."""

    def __post_init__(self) -> None:
        if self.patience and not (self.every and self.num_problems):
            message = "needs evaluations during training: eval.every and eval.num_problems above 0"
            raise SettingError("patience", message, self.patience)


TRACKERS = ("tensorboard", "trackio", "wandb")
"""Each is the name of a package, and of our extra that installs it."""


@dataclass(frozen=True)
class TrackingSettings:
    """Where metrics go besides metrics.jsonl (see docs/tracking.md)."""

    trackers: tuple[str, ...] = ()
    """tensorboard, trackio, wandb: each needs the extra of its name, as in pip install 'treepo[wandb]'."""

    project: str = "treepo"
    """The project that trackio and wandb show the run in."""

    run_name: str = ""
    """The run's name there; that of its folder if not given."""

    offline: bool = False
    """Let wandb only write to the run's folder; `wandb sync` sends it later."""

    sample_problems: Annotated[int, Field(ge=0)] = 4
    """Problems whose answers go to samples.jsonl and the trackers, at steps whose trees are kept; 0 for none."""

    sample_answers: Count = 4
    """Answers of each: the best, the worst and some between."""

    entity: str = ""
    """The user or team of wandb that the run belongs to; that of the account if not given."""

    group: str = ""
    """The group of runs that wandb shows it in."""

    tags: tuple[str, ...] = ()
    """Tags that wandb shows it with."""

    push_to_hub: bool = False
    """Upload the final model or adapter to the Hugging Face hub at the end of the run (see docs/tracking.md)."""

    hub_model_id: str = ""
    """Its repository there, as name or owner/name; the name of the run's folder if not given."""

    hub_private_repo: bool = True
    """Make the repository, if it is not there yet, a private one."""

    def __post_init__(self) -> None:
        for name in self.trackers:
            if name not in TRACKERS:
                raise SettingError("trackers", f"must be among {', '.join(TRACKERS)}", name)
        if len(set(self.trackers)) < len(self.trackers):
            raise SettingError("trackers", "must differ", list(self.trackers))


@dataclass(frozen=True)
class ProcessSettings:
    """How processes that torchrun started train together (see docs/runs.md)."""

    shard_size: Annotated[int, Field(ge=0)] = 0
    """Processes that share one copy of the weights, gradients and moments; with more processes, each group of this size
    holds a copy (HSDP). 0 for all."""

    param_dtype: Literal["same", "bfloat16"] = "same"
    """Type in which weights are gathered and computed with; shards, their gradients and moments stay in model.dtype.
    "same" is that type."""

    reduce_dtype: Literal["same", "float32", "bfloat16"] = "same"
    """Type in which gradients are summed over the processes; "same" is that in which weights are gathered."""

    timeout_s: Annotated[float, Field(gt=0)] = 7200.0
    """Longest wait of a process for the others, in seconds; theirs may be the longer trees."""


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    task: TaskSettings = TaskSettings()
    prompt: PromptTemplate = PromptTemplate()
    verifier: Verifier = MathVerifier()
    verifier_pool: VerifierPoolSettings = VerifierPoolSettings()
    tree: TreeShape = TreeShape(segment_len=128)
    initial_fork: InitialFork = InitialFork()
    branching: Branching = EvenBranching()
    fallback: Fallback = Backtrack()
    stopping: Stopping = StopRules()
    environment: EnvironmentSettings = EnvironmentSettings()
    engine: EngineSettings = EngineSettings()
    vllm: VllmSettings = VllmSettings()
    servers: ServerSettings = ServerSettings()
    reward: Reward = ShapedReward()
    credit: Estimator = TreePO()
    lora: LoraSettings = LoraSettings()
    loss: Loss = PPO()
    aggregation: Aggregation = TokenMean()
    penalties: Penalties = Penalties()
    optim: OptimSettings = OptimSettings()
    train: TrainSettings = TrainSettings()
    dynamic_sampling: DynamicSampling = DynamicSampling()
    eval: EvalSettings = EvalSettings()
    tracking: TrackingSettings = TrackingSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    processes: ProcessSettings = ProcessSettings()

    def __post_init__(self) -> None:
        self._check_overlap()
        self._check_token_budget()
        if self.credit.per_node and self.loss.per_trajectory:
            raise SettingError(
                "loss.use",
                f"{type(self.loss).__name__} needs one advantage per trajectory, but credit.use = "
                f"{type(self.credit).__name__!r} gives one per node",
            )
        if isinstance(self.credit, TreePO) and not self.credit.with_root and self.tree.depth == 1:
            raise SettingError("credit.with_root", "false needs tree.depth of at least 2: no group but the root's", 1)
        for library in LIBRARIES:
            others = [source for source in (*self.data.train, *self.data.eval) if not library.makes(source)]
            if others and type(self.verifier).__name__ == library.defaults["verifier"]["use"]:
                message = f"judges {library.problems} alone: name a verifier that judges {others[0]!r}, too"
                raise SettingError("verifier.use", message, type(self.verifier).__name__)
        _check_environment(self)
        reward, longest = self.reward, self.tree.max_response_tokens
        if isinstance(self.verifier, NoVerifier) and getattr(reward, "correct", 0.0):
            message = "must be 0 where nothing is verified (verifier.use = 'NoVerifier'): give reward.functions"
            raise SettingError("reward.correct", message, getattr(reward, "correct", 0.0))
        if not isinstance(reward, ShapedReward):
            return
        if reward.overlong and reward.overlong_buffer > longest:
            message = f"must be within 1..{longest}, the longest response"
            raise SettingError("reward.overlong_buffer", message, reward.overlong_buffer)
        if reward.can_be_negative and isinstance(self.credit, MaxRL):
            raise SettingError(
                "credit.use",
                "MaxRL needs rewards that are not negative, but reward.overlong, reward.length, reward.environment or "
                f"reward.length_neutral can make them so: {reward.overlong}, {reward.length}, {reward.environment}, "
                f"{reward.length_neutral}",
            )

    def check_whole(self) -> None:
        """Raise SettingError for settings without what a program may give beside them: datasets, an environment."""
        if self.data.weights and not self.data.train:
            raise SettingError("data.weights", "needs datasets to train on (data.train)", self.data.weights)
        weight = self.reward.environment if isinstance(self.reward, ShapedReward) else 0.0
        if weight and not self.environment.is_given:
            raise SettingError("reward.environment", "needs an environment (environment.factory)", weight)

    def _check_overlap(self) -> None:
        """Raise SettingError for what cannot grow beside an update, or would be silently wrong."""
        if not self.train.overlap:
            return
        message = ""
        if self.engine.kind != "servers":
            message = (
                "needs engine.kind = 'servers': the embedded engine samples from the weights that change meanwhile, "
                "vllm in the memory of the update"
            )
        elif (self.engine.top_k, self.engine.top_p, self.engine.min_p) != (0, 1.0, 0.0):
            message = (
                "needs engine.top_k = 0, engine.top_p = 1 and engine.min_p = 0: importance weights are ratios to the "
                "whole distribution"
            )
        elif self.dynamic_sampling.max_rounds > 1:
            message = "needs dynamic_sampling.max_rounds = 1: a further round would wait for the trees of all processes"
        elif isinstance(self.branching, Planned):
            message = "is not for branching.use = 'Planned', which plans a step from the trees of the one before"
        if message:
            raise SettingError("train.overlap", message, self.train.overlap)

    @property
    def tokens_per_step(self) -> int:
        """The tokens that a step is to decode; 0 where its problems are counted instead."""
        return self.branching.tokens_per_step if isinstance(self.branching, Planned) else 0

    @property
    def max_problems_per_step(self) -> int:
        """The most problems that a step may grow."""
        most = self.dynamic_sampling.max_problems(self.train.prompts_per_step)
        return self.branching.max_problems(most) if isinstance(self.branching, Planned) else most

    def check_planned(self) -> None:
        """Raise SettingError where `Planned` has no shape to choose, and would train on stars for ever."""
        tree, fork = self.tree, self.initial_fork
        if not isinstance(self.branching, Planned):
            return
        needs = "for branching.use = 'Planned', whose trees fork below the prompt as well"
        if tree.depth < 2:
            raise SettingError("tree.depth", f"must be at least 2 {needs}", tree.depth)
        if tree.num_children < 2:
            raise SettingError("tree.num_children", f"must be at least 2 {needs}", tree.num_children)
        if fork.low >= tree.width:
            raise SettingError("initial_fork.low", f"must be below tree.width = {tree.width} {needs}", fork.low)

    def _check_token_budget(self) -> None:
        """Raise SettingError for what does not go together with a budget of tokens per step."""
        if not self.tokens_per_step:
            return
        message = ""
        if self.dynamic_sampling.max_rounds > 1:
            message = "needs dynamic_sampling.max_rounds = 1: further rounds would decode more than the budget"
        elif self.train.num_epochs:
            message = "needs train.num_steps, not train.num_epochs: how many steps an epoch takes depends on the plans"
        elif self.tree.token_budget is not None:
            message = "needs trees of tree.width trajectories: leave out tree.token_budget"
        if message:
            raise SettingError("branching.tokens_per_step", message, self.tokens_per_step)


def _check_environment(config: Config) -> None:
    """Raise SettingError for a built-in task of several turns without its environment, or with another one's."""
    task, factory = config.task.name, config.environment.factory
    is_missing = task in BUILT_IN and not factory
    if not config.data.is_given and task != factory and (is_missing or factory in BUILT_IN):
        message = f"does not go together with the built-in task {task!r} (task.name)"
        raise SettingError("environment.factory", message, factory)


Settings = Mapping[str, Mapping[str, Any]]
"""Settings as TOML holds them: section -> key -> value."""


def is_data_given(settings: Settings) -> bool:
    """Whether settings name datasets, so that the built-in task is not meant."""
    data = settings.get("data", {})
    return bool(data.get("train") or data.get("eval"))


BUILT_IN_TASK: Settings = {
    "tree": {"width": 8, "depth": 8, "segment_len": 16, "num_children": 2},
    "optim": {"lr": 2e-4, "warmup_steps": 5, "betas": [0.9, 0.95], "weight_decay": 0.0},
    "train": {"num_steps": 35, "prompts_per_step": 32, "num_mini_batches": 2},
}
"""What differs from the defaults when neither a recipe nor a dataset is given: a built-in task's model of 0.8M
parameters learns at other rates."""

ENVIRONMENTS: Mapping[str, Settings] = {
    name: {"environment": {"factory": name, "max_observed_tokens": 64}} for name in BUILT_IN
}
"""What differs from the defaults for built-in tasks of several turns, by their names."""
