"""Every setting of a run, declared once: a section is a frozen dataclass, and the dataclass is what runs."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from treepo.credit.base import Estimator
from treepo.credit.group import MaxRL
from treepo.credit.subgroup import TreePO
from treepo.data.formats import RecordFormat
from treepo.data.mixing import Mixture
from treepo.data.prompts import PromptTemplate
from treepo.engine.settings import ServerSettings
from treepo.engine.vllm.start import VllmSettings
from treepo.grow.branching import Branching, EvenBranching, InitialFork
from treepo.grow.fallback import Backtrack, Fallback
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import Stopping, StopRules
from treepo.learn.dynamic_sampling import DynamicSampling
from treepo.learn.losses import PPO, Aggregation, Loss, Penalties, TokenMean
from treepo.learn.optim import OptimSettings
from treepo.model.lora import LoraSettings
from treepo.verify.base import Verifier
from treepo.verify.math import MathVerifier
from treepo.verify.pool import PoolSettings
from treepo.verify.rewards import Reward, ShapedReward

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class ModelSettings:
    """The policy."""

    path: str = ""
    """Hugging Face model folder or name; empty for the built-in task's base model."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights."""

    device: str = "cpu"
    """Where the model lives: cpu, cuda, cuda:1."""

    trust_remote_code: bool = False
    """Run Python code that comes with the model."""


@dataclass(frozen=True)
class DataSettings(RecordFormat):
    """The problems, and the format of sets that name none (see docs/data.md)."""

    train: tuple[str, ...] = ()
    """Sets to train on, each a file, a folder, or a set of the hub; empty for the built-in task."""

    weights: tuple[float, ...] = ()
    """How often each of them is drawn from; if not given every problem comes once in each epoch."""

    eval: tuple[str, ...] = ()
    """Sets to evaluate on; if not given one problem in ten of `train` is held out."""

    max_prompt_len: Count = 1024
    """Problems with more prompt tokens are dropped."""

    @property
    def is_given(self) -> bool:
        """Whether there are problems other than those of the built-in task."""
        return bool(self.train or self.eval)

    @property
    def own_fields(self) -> list[str]:
        """Settings of the format of one's own sets that differ from the defaults."""
        return [f.name for f in fields(RecordFormat) if getattr(self, f.name) != f.default]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights and len(self.weights) != len(self.train):
            raise ValueError(f"weights needs a number for each of {len(self.train)} sets, got {list(self.weights)}")
        if self.weights:
            # Before anything is loaded.
            Mixture(self.weights)


@dataclass(frozen=True)
class EngineSettings:
    """What decodes."""

    kind: Literal["embedded", "vllm", "servers"] = "embedded"
    """The engine over the model that is trained; vLLM in this process ([vllm]); vLLM's servers ([servers])."""

    max_num_seqs: Count = 256
    """Most paths decoded at a time."""

    max_num_batched_tokens: Count = 8192
    """Most prompt tokens of one forward, though at least one prompt."""

    max_tokens: Annotated[int, Field(ge=64)] | None = None
    """Most tokens whose keys and values are kept; half of the free memory's worth if not given. Servers have their
    own limit."""

    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    """Sampling temperature in training."""

    top_k: Annotated[int, Field(ge=0)] = 0
    """Draw only from so many likeliest tokens; 0 for all. The loss compares with the whole distribution anyway."""

    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw only from the likeliest tokens that together have this probability."""

    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Draw only from tokens with at least this share of the likeliest one's probability."""


@dataclass(frozen=True)
class TrainSettings:
    """The loop."""

    num_steps: Annotated[int, Field(ge=0)] = 100
    """Training steps."""

    prompts_per_step: Count = 32
    """Trees wanted per step."""

    num_mini_batches: Count = 2
    """Updates per epoch, each on its share of the problems."""

    num_iterations: Count = 1
    """How often a step goes over its trees; ratios are those to the policy that sampled them."""

    packing: bool = True
    """Forward what trajectories share once in the update; if not, each trajectory on its own."""

    max_tokens_per_micro_batch: Count = 8192
    """Most tokens of one forward, padding included; a larger tree is forwarded in parts, a longer trajectory whole."""

    recompute_old_logprobs: bool = False
    """Let ratios refer to the trainer's own log-probabilities before a step's first update, not to the engine's. The
    embedded engine's are the same but for rounding."""

    importance_cap: Annotated[float, Field(gt=0)] | None = None
    """With recompute_old_logprobs: weigh every token by how much likelier the trainer's policy finds it than the engine did, at most
    this much, so that what another engine sampled stands for what the policy would have. Not done if not given."""

    gradient_checkpointing: bool = False
    """Keep one hidden state per layer and compute the others again in the backward pass."""

    autocast: Literal["none", "bfloat16"] = "none"
    """Type of the matrix products of engine and trainer, over weights of model.dtype."""

    save_trees_every: Annotated[int, Field(ge=0)] = 10
    """Steps between those whose trees are kept in trees/step-*.parquet; 0 for none."""

    seed: Annotated[int, Field(ge=0)] = 0
    """All randomness of the run derives from it."""

    def __post_init__(self) -> None:
        if self.importance_cap is not None and not self.recompute_old_logprobs:
            raise ValueError(f"importance_cap needs recompute_old_logprobs = true, got {self.importance_cap}")


@dataclass(frozen=True)
class EvalSettings:
    """Held-out accuracy, before and after training."""

    num_problems: Annotated[int, Field(ge=0)] = 400
    """Held-out problems; fewer if there are fewer, 0 for no evaluation."""

    num_samples: Count = 2
    """Answers per problem at temperature 1."""

    every: Annotated[int, Field(ge=0)] = 0
    """Steps between evaluations during training; 0 for none."""

    keep_best: bool = False
    """Keep the model as it was when eval/avg was highest, in best/."""


TRACKERS = ("tensorboard", "trackio", "wandb")
"""Each is the name of a package and of our extra that installs it."""


@dataclass(frozen=True)
class TrackingSettings:
    """Where figures go besides metrics.jsonl (see docs/tracking.md)."""

    trackers: tuple[str, ...] = ()
    """tensorboard, trackio, wandb: each needs the extra of its name, as in pip install 'treepo[wandb]'."""

    project: str = "treepo"
    """The project that trackio and wandb show the run in."""

    run_name: str = ""
    """The run's name there; that of its folder if not given."""

    offline: bool = False
    """Let wandb only write to the run's folder; `wandb sync` sends it later."""

    sample_problems: Annotated[int, Field(ge=0)] = 4
    """Problems of which answers go to samples.jsonl and the trackers at steps whose trees are kept; 0 for none."""

    sample_answers: Count = 4
    """Answers of each: the best, the worst and some between."""

    def __post_init__(self) -> None:
        for name in self.trackers:
            if name not in TRACKERS:
                raise ValueError(f"trackers must be among {', '.join(TRACKERS)}, got {name!r}")
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError(f"trackers must differ, got {list(self.trackers)}")


@dataclass(frozen=True)
class CheckpointSettings:
    """What is kept to go on from (see docs/runs.md)."""

    every: Annotated[int, Field(ge=0)] = 10
    """Steps between checkpoints; there is one too where eval/avg is the best so far. 0 for none but at the end, on
    Ctrl-C and on SIGTERM."""

    keep: Count = 2
    """Checkpoints that are kept, besides the best one."""


@dataclass(frozen=True)
class ProcessSettings:
    """How several processes train together, if torchrun started them (see docs/runs.md)."""

    shard_size: Annotated[int, Field(ge=0)] = 0
    """DistContext that the model's weights, gradients and moments are divided over; if there are more, groups of so many
    hold copies (HSDP). 0 for all."""

    timeout_s: Annotated[float, Field(gt=0)] = 7200.0
    """Longest wait of a process for the others, which may have longer trees to grow."""


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    prompt: PromptTemplate = PromptTemplate()
    verifier: Verifier = MathVerifier()
    verifier_pool: PoolSettings = PoolSettings()
    tree: TreeShape = TreeShape(segment_len=128)
    initial_fork: InitialFork = InitialFork()
    branching: Branching = EvenBranching()
    fallback: Fallback = Backtrack()
    stopping: Stopping = StopRules()
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
        if self.credit.per_node and self.loss.per_trajectory:
            raise ValueError(
                f"loss.use: {type(self.loss).__name__} needs one advantage per trajectory, but credit.use = "
                f"{type(self.credit).__name__!r} gives one per node"
            )
        if isinstance(self.credit, TreePO) and not self.credit.with_root and self.tree.depth == 1:
            raise ValueError("credit.with_root = false needs tree.depth of at least 2: no group but the root's, got 1")
        if isinstance(self.reward, ShapedReward):
            _check_reward(self.reward, self.credit, self.tree.response_limit)


def _check_reward(reward: ShapedReward, credit: Estimator, limit: int) -> None:
    """ValueError if the reward does not go together with other settings; limit: tokens of the longest response."""
    if reward.overlong and reward.overlong_buffer > limit:
        raise ValueError(
            f"reward.overlong_buffer must be within 1..{limit}, the longest response, got {reward.overlong_buffer}"
        )
    if reward.can_be_negative and isinstance(credit, MaxRL):
        raise ValueError(
            "credit.use: MaxRL needs rewards that are not negative, but reward.overlong, reward.length or "
            f"reward.length_neutral give such: {reward.overlong}, {reward.length}, {reward.length_neutral}"
        )


Settings = Mapping[str, Mapping[str, Any]]
"""Settings as TOML holds them: section -> key -> value."""


def is_data_given(settings: Settings) -> bool:
    """Whether settings name sets of problems, so that the built-in task is not meant."""
    data = settings.get("data", {})
    return bool(data.get("train") or data.get("eval"))


BUILT_IN_TASK: Settings = {
    "tree": {"width": 8, "depth": 8, "segment_len": 16, "num_children": 2},
    "optim": {"lr": 2e-4, "warmup_steps": 5, "betas": [0.9, 0.95], "weight_decay": 0.0},
    "train": {"num_steps": 35, "prompts_per_step": 32, "num_mini_batches": 2},
}
"""What differs from the defaults when neither a recipe nor a file of problems is given: the built-in task's model of
0.8M parameters learns at other rates."""
