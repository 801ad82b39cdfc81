"""Optimizers and learning-rate schedules by the names that transformers gives them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adafactor, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from treepo.errors import SettingError
from treepo.learn.settings import OptimSettings, remaining


def make_optimizer(
    model: nn.Module, settings: OptimSettings, num_updates: int | None = None
) -> tuple[Optimizer, LambdaLR]:
    """The optimizer of all parameters that are trained, and the schedule to be stepped after each update.

    num_updates: those of the whole run, which a rate that falls has to know. Raises SettingError for an optimizer that
    is not installed or does not take the model's parameters, among them those in float16: Adam's second moments and its
    epsilon are 0 there, and it divides by them.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if any(p.dtype == torch.float16 for p in trained):
        message = 'weights in float16 cannot be trained; use "float32", with train.autocast = "bfloat16" to be faster'
        raise SettingError("model.dtype", message, "float16")
    is_sharded = any(isinstance(p, DTensor) for p in trained)
    if is_sharded and settings.name not in SHARDABLE:
        message = f"must be among {', '.join(SHARDABLE)} where several processes share the weights"
        raise SettingError("optim.name", message, settings.name)
    if is_sharded and settings.offload:
        raise SettingError("optim.offload", "is for one process; several share the optimizer's state anyway", True)
    optimizer = _build(model, trained, settings)
    if settings.offload:
        offload_state(optimizer)
    return optimizer, LambdaLR(optimizer, lr_factor(settings, num_updates))


def lr_factor(settings: OptimSettings, num_updates: int | None = None) -> Callable[[int], float]:
    """The learning rate after `done` updates as a multiple of optim.lr.

    It rises linearly over the warm-up, whose first update has a rate above 0, and then falls as in transformers'
    get_linear_schedule_with_warmup and get_cosine_with_min_lr_schedule_with_warmup. A run that goes past `num_updates`
    keeps the lowest rate.
    """
    if num_updates is None and (settings.lr_scheduler_type != "constant" or settings.warmup_ratio is not None):
        raise SettingError("optim.lr_scheduler_type", "needs to know how many updates there are")
    total = num_updates or 0
    warmup = settings.num_warmup_updates(total)

    def factor(done: int) -> float:
        if done < warmup:
            return (done + 1) / warmup
        left = remaining(settings.lr_scheduler_type, done - warmup, total - warmup)
        return settings.min_lr_rate + (1.0 - settings.min_lr_rate) * left

    return factor


class MuonAdamW(Optimizer):
    """torch's Muon for the matrices, AdamW for all other parameters, with one learning rate.

    Muon's updates are scaled to the size of AdamW's, so that a rate that suits one suits both. Source: Jordan et al.
    2024, "Muon: an optimizer for hidden layers in neural networks"; the scale: Moonlight, arXiv 2502.16982, sec. 2.2.
    """

    def __init__(self, matrices: list[nn.Parameter], others: list[nn.Parameter], settings: OptimSettings) -> None:
        self.parts: list[Optimizer] = []
        if matrices:
            momentum = 0.95 if settings.momentum is None else settings.momentum
            self.parts.append(
                torch.optim.Muon(
                    matrices,
                    lr=settings.lr,
                    weight_decay=settings.weight_decay,
                    momentum=momentum,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if others:
            self.parts.append(_adamw(others, settings))
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - none is given
        # Loading a state replaces the groups and the state of this optimizer, not those of its parts.
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state
            part.step()


def offload_state(optimizer: Optimizer) -> None:
    """Keep the optimizer's state on the CPU, but while it makes its step."""

    def to_devices(*_: Any) -> None:
        _move_state(optimizer, lambda parameter: parameter.device)

    def to_cpu(*_: Any) -> None:
        _move_state(optimizer, lambda _: torch.device("cpu"))

    optimizer.register_step_pre_hook(to_devices)
    optimizer.register_step_post_hook(to_cpu)


def _move_state(optimizer: Optimizer, device_of: Callable[[Tensor], torch.device]) -> None:
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            # torch's own optimizers count their steps on the CPU.
            if key != "step" and isinstance(value, Tensor):
                state[key] = value.to(device_of(parameter))


def _adamw(trained: list[nn.Parameter], settings: OptimSettings) -> Optimizer:
    return AdamW(trained, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)


def _build(model: nn.Module, trained: list[nn.Parameter], settings: OptimSettings) -> Optimizer:
    match settings.name:
        case "adamw":
            return _adamw(trained, settings)
        case "adamw_8bit":
            return _adamw_8bit(trained, settings)
        case "adafactor":
            return Adafactor(trained, lr=settings.lr, weight_decay=settings.weight_decay)
        case "muon":
            return _muon(model, trained, settings)
        case "sgd":
            momentum = settings.momentum or 0.0
            return SGD(trained, lr=settings.lr, momentum=momentum, weight_decay=settings.weight_decay)


def _adamw_8bit(trained: list[nn.Parameter], settings: OptimSettings) -> Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    except ImportError as error:
        message = "'adamw_8bit' needs bitsandbytes, which is not installed (pip install 'treepo[bitsandbytes]')"
        raise SettingError("optim.name", message) from error
    return AdamW8bit(trained, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)


def _muon(model: nn.Module, trained: list[nn.Parameter], settings: OptimSettings) -> Optimizer:
    if not hasattr(torch.optim, "Muon"):
        raise SettingError("optim.name", f"'muon' needs torch 2.9 or later, this is {torch.__version__}")
    modules = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    if hasattr(model, "get_output_embeddings"):
        modules.append(model.get_output_embeddings())  # pyright: ignore[reportCallIssue, reportArgumentType]
    embeddings = {p for module in modules if module is not None for p in module.parameters()}
    matrices = [p for p in trained if p.ndim == 2 and p not in embeddings]
    others = [p for p in trained if p.ndim != 2 or p in embeddings]
    return MuonAdamW(matrices, others, settings)


SHARDABLE = ("adamw", "sgd")
"""Optimizers that treat every element by itself, so that a shard of a parameter is as good as the whole."""
