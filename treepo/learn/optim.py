"""The optimizer and its learning-rate schedule."""

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from treepo.learn.settings import OptimSettings


def make_optimizer(model: nn.Module, settings: OptimSettings) -> tuple[Optimizer, LambdaLR]:
    """AdamW over all parameters that are trained, and the schedule to be stepped after each update."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW(trained, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)
    return optimizer, LambdaLR(optimizer, lambda done: min(1.0, (done + 1) / max(settings.warmup_steps, 1)))
