"""Settings of training. Importing this loads no torch."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from treepo.errors import SettingError

Count = Annotated[int, Field(ge=1)]

MOST = 1_000

MAX_LR = 1e30
"""Far above any use; Adam's step has to be a number of float32."""


Schedule = Literal["constant", "linear", "cosine"]


def remaining(schedule: Schedule, done: int, total: int) -> float:
    """From 1 to 0, what is left of something that a schedule lowers, after `done` of `total` updates."""
    if schedule == "constant":
        return 1.0
    progress = min(done / max(total, 1), 1.0)
    return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class DynamicSampling:
    """Grow further problems in place of those whose rewards all agree (TreePO, section 3; DAPO, arXiv 2503.14476).

    The paper grows three times the problems it wants, and again up to twice. Here each further round grows as many as
    the share of survivors so far suggests, so that less is grown in vain. A step that finds too few, or none, trains
    on what it has.
    """

    max_rounds: int = 1
    """Most rounds of growing per step; 1 for none but the first."""

    max_factor: float = 3.0
    """Most problems grown per step, as a multiple of prompts_per_step, where there are further rounds."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_rounds <= MOST:
            raise SettingError("max_rounds", f"must be within 1..{MOST}", self.max_rounds)
        if not 1 <= self.max_factor <= MOST:
            raise SettingError("max_factor", f"must be within 1..{MOST}", self.max_factor)

    def max_problems(self, wanted: int) -> int:
        """The most problems that a step may grow."""
        return int(wanted * self.max_factor) if self.max_rounds > 1 else wanted

    def num_next(self, wanted: int, num_kept: int, num_grown: int, num_rounds: int) -> int:
        """Problems to grow in the next round; 0 if enough were kept, or no round or problem is left.

        missing x (grown + 1) / (kept + 1), rounded up: the first round grows as many as are wanted.
        """
        if num_kept >= wanted or num_rounds >= self.max_rounds:
            return 0
        estimate = -(-(wanted - num_kept) * (num_grown + 1) // (num_kept + 1))
        return min(estimate, self.max_problems(wanted) - num_grown)


@dataclass(frozen=True)
class OptimSettings:
    """The optimizer, and its learning rate over the run (see docs/optimizers.md)."""

    name: Literal["adamw", "adamw_8bit", "adafactor", "muon", "sgd"] = "adamw"
    """The optimizer. adamw_8bit needs bitsandbytes; muon is for the matrices between the embeddings, AdamW for the
    other parameters."""

    lr: float = 1e-6
    """Learning rate after the warm-up, the highest."""

    lr_scheduler_type: Schedule = "constant"
    """How the rate goes on after the warm-up: it stays, or falls as a line or half a cosine until the last update."""

    warmup_steps: int = 10
    """Updates over which the rate rises linearly."""

    warmup_ratio: float | None = None
    """Share of all updates over which the rate rises, in place of warmup_steps."""

    min_lr_rate: float = 0.0
    """Share of lr that a falling rate ends at."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two moving averages of adamw and adamw_8bit."""

    momentum: float | None = None
    """Momentum of muon (0.95 if not given) and sgd (0 if not given)."""

    weight_decay: float = 0.1
    """Decay of the weights: decoupled from the gradient as in AdamW, but added to it by sgd."""

    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""

    offload: bool = False
    """Keep the optimizer's state in the CPU's memory but while an update is made. For one process."""

    def __post_init__(self) -> None:
        self._check_rate()
        if not all(0 <= beta < 1 for beta in self.betas):
            raise SettingError("betas", "must lie in [0, 1)", self.betas)
        if self.momentum is not None and self.name not in ("muon", "sgd"):
            raise SettingError("momentum", f"is for muon and sgd, not for {self.name}", self.momentum)
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise SettingError("momentum", "must lie in [0, 1)", self.momentum)
        if not self.weight_decay >= 0:
            raise SettingError("weight_decay", "must not be negative", self.weight_decay)
        if not self.max_grad_norm > 0:
            raise SettingError("max_grad_norm", "must be positive", self.max_grad_norm)

    def _check_rate(self) -> None:
        if not self.lr > 0:
            raise SettingError("lr", "must be positive", self.lr)
        if self.lr > MAX_LR:
            raise SettingError("lr", f"must be at most {MAX_LR:g}", self.lr)
        if self.warmup_steps < 0:
            raise SettingError("warmup_steps", "must not be negative", self.warmup_steps)
        for name in ("warmup_ratio", "min_lr_rate"):
            if (value := getattr(self, name)) is not None and not 0 <= value <= 1:
                raise SettingError(name, "must lie between 0 and 1", value)
        if self.min_lr_rate and self.lr_scheduler_type == "constant":
            raise SettingError("min_lr_rate", "needs lr_scheduler_type = linear or cosine", self.min_lr_rate)

    def num_warmup_updates(self, num_updates: int) -> int:
        """The updates over which the rate rises, of a run of so many; a share is rounded up, as in transformers."""
        return self.warmup_steps if self.warmup_ratio is None else math.ceil(num_updates * self.warmup_ratio)


@dataclass(frozen=True)
class TrainSettings:
    """The loop."""

    num_steps: Annotated[int, Field(ge=0)] = 100
    """Training steps."""

    prompts_per_step: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    """Trees wanted per step."""

    num_mini_batches: Count = 2
    """Updates per epoch, each on its share of the problems."""

    num_iterations: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """How often a step goes over its trees; ratios are those to the policy that sampled them."""

    packing: bool = True
    """Forward what trajectories share once in the update; if not, each trajectory on its own."""

    max_tokens_per_micro_batch: Count = 8192
    """Most tokens of one forward, padding included; a larger tree is forwarded in parts, a longer trajectory whole."""

    recompute_old_logprobs: bool = False
    """Let ratios refer to the trainer's own log-probabilities before a step's first update, not to the engine's. The
    embedded engine's are the same up to rounding."""

    importance_cap: Annotated[float, Field(gt=0)] | None = None
    """With recompute_old_logprobs: weigh each token by the ratio of the trainer's probability to the engine's, at most
    this much, so that what another engine sampled stands for samples of the policy. No weights if not given."""

    overlap: Annotated[int, Field(ge=0, le=1)] = 0
    """1 grows the trees of the next step over servers while a step is learned from: from the weights before that step,
    which recompute_old_logprobs and importance_cap make up for (see docs/engines.md). 0 grows them after it."""

    mask_truncated_completions: bool = False
    """Let trajectories that were cut off at the longest response or the deepest level add nothing to the loss. They
    still count among those that others are compared with."""

    gradient_checkpointing: bool = False
    """Keep one hidden state per layer and compute the others again in the backward pass."""

    autocast: Literal["none", "bfloat16", "auto"] = "none"
    """Type of the matrix products of engine and trainer, over weights of model.dtype. auto: bfloat16 over float32
    weights where the device is faster in it, which GPUs from compute capability 8.0 on are, and CPUs with AMX, AMD's
    AVX512-BF16 or ARM's BFMMLA. On other CPUs the embedded engine computes in float32 in any case."""

    save_trees_every: Annotated[int, Field(ge=0)] = 10
    """Steps between those whose trees are kept in trees/step-*.parquet, besides the first and the last one; 0 for
    none."""

    seed: Annotated[int, Field(ge=0)] = 0
    """All randomness of the run derives from it."""

    max_hours: Annotated[float, Field(gt=0)] | None = None
    """Stop, with a checkpoint and exit code 0, before a step that would end later than so many hours after training
    began, if it takes as long as the longest so far; `--resume` goes on. Not given: no limit."""

    num_epochs: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """Train for so many passes over the training problems, instead of num_steps; 0 for num_steps."""

    @property
    def num_updates(self) -> int:
        """Updates of the whole run; a step that finds too few problems with a signal makes fewer."""
        return self.num_steps * self.num_mini_batches * self.num_iterations

    def __post_init__(self) -> None:
        if self.importance_cap is not None and not self.recompute_old_logprobs:
            raise SettingError("importance_cap", "needs recompute_old_logprobs = true", self.importance_cap)
        if self.overlap and self.importance_cap is None:
            message = (
                "needs train.recompute_old_logprobs = true and train.importance_cap (2.0, for example): trees are "
                "sampled from older weights than those that learn from them"
            )
            raise SettingError("overlap", message, self.overlap)


@dataclass(frozen=True)
class CheckpointSettings:
    """What is kept to go on from (see docs/runs.md)."""

    every: Annotated[int, Field(ge=0)] = 10
    """Steps between checkpoints; there is one too where eval/avg is the best so far. 0 for none but at the end, on
    Ctrl-C and on SIGTERM."""

    keep: Count = 2
    """Checkpoints that are kept, besides the best one."""

    save_model: bool = False
    """Write the model, too, at every checkpoint, as transformers loads it, to models/step-*; the adapter alone where
    adapters are trained. The models are kept as long as their checkpoints."""
