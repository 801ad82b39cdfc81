"""RMS norms of decoders with a backward pass in few operations.

torch computes the norm of transformers' models, and its gradient, in a dozen operations that each read and write all
hidden states; on the CPU that takes longer than attention does.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

NAMES = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
"""transformers' classes of norms that compute weight x / rms(x)."""


def use_fused_norms(model: nn.Module) -> None:
    """Let the norms that `FusedRMSNorm` computes do so, for inputs in float32."""
    for module in model.modules():
        kind = type(module)
        if kind.__name__ in NAMES and kind.__module__.startswith("transformers.models."):
            module.forward = partial(_forward, module)


def _forward(module: Any, hidden_states: Tensor) -> Tensor:
    if hidden_states.dtype != torch.float32 or module.weight.dtype != torch.float32:
        return type(module).forward(module, hidden_states)
    if hidden_states.is_cuda:
        # There torch has one kernel for it, and two for its gradient.
        return rms_norm(hidden_states, module.weight.shape, module.weight, module.variance_epsilon)
    output = FusedRMSNorm.apply(hidden_states, module.weight, module.variance_epsilon)
    assert isinstance(output, Tensor)
    return output


class FusedRMSNorm(torch.autograd.Function):
    """y = weight x / sqrt(mean(x^2) + eps), x [..., D] and weight [D] in float32.

    With n = x / rms and g the gradient of y, that of weight is the sum of g n over all rows, and that of x is
    (g weight - n mean(g weight n)) / rms.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        # No vecdot: autocast would compute it in half precision.
        scale = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, scale = ctx.saved_tensors
        grad = grads[0]
        normed = x * scale
        product = grad * normed
        weight_grad = product.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        means = (product @ weight)[..., None] / x.shape[-1]
        return (grad * weight).sub_(normed.mul_(means)).mul_(scale), weight_grad, None
