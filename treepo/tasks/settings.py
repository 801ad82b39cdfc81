"""Settings of the built-in tasks and of the models that are pretrained for them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TaskSettings:
    """The built-in task, where no dataset is given (see docs/tasks.md)."""

    name: Literal["chain_sums", "start_sums", "maze", "calculator"] = "chain_sums"
    """chain_sums: additions and subtractions, worked step by step. start_sums: the same from one of three starts, which
    the first token of an answer chooses. maze, calculator: environments of several turns, a game with hidden state and
    sums with a tool (see docs/environments.md)."""


@dataclass(frozen=True)
class BaseModelSettings:
    """Architecture and pretraining of a base model; other settings give another model in the cache."""

    version: int = 1
    """Increased when the same settings give another model."""

    hidden_size: int = 128
    ffn_size: int = 384
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    init_std: float = 0.05
    max_positions: int = 256

    careful_share: float = 0.45
    num_steps: int = 480
    tokens_per_step: int = 3000
    num_buckets: int = 4
    """Parts of a batch, by length: more of them pad less but take more forward passes."""
    peak_lr: float = 3e-3
    num_warmup_steps: int = 50
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
