"""The optimiser and its schedule."""

from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class OptimSettings:
    """AdamW with a linear warm-up to a constant rate."""

    lr: float = 1e-6
    """Learning rate after the warm-up."""

    warmup_steps: int = 10
    """Updates over which the rate rises linearly."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of Adam's two moving averages."""

    weight_decay: float = 0.1
    """AdamW's decay of the weights."""

    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {self.warmup_steps}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), got {self.betas}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        if self.max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm must be positive, got {self.max_grad_norm}")


def make_optimizer(model: nn.Module, settings: OptimSettings) -> tuple[Optimizer, LambdaLR]:
    """AdamW over all parameters that are trained, and the schedule to be stepped after each update."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW(trained, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)
    return optimizer, LambdaLR(optimizer, lambda done: min(1.0, (done + 1) / max(settings.warmup_steps, 1)))
