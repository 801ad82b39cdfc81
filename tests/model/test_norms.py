"""RMS norms with a backward pass of their own."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from tests.models import make_tiny_model
from treepo.model.norms import FusedRMSNorm, use_fused_norms

IDS = torch.arange(12)[None] % 16


def results(model: nn.Module, autocast: bool = False) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the gradients of a sum that weighs each differently."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(input_ids=IDS, use_cache=False).logits.float()
    (logits * torch.arange(logits.numel()).view_as(logits).cos()).sum().backward()
    return logits.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_value_and_gradient_are_those_of_torch_in_float64() -> None:
    x, weight = (torch.randn(size, dtype=torch.float64, requires_grad=True) for size in ((3, 5), (5,)))
    narrow = FusedRMSNorm.apply(x.detach().float().requires_grad_(), weight.detach().float(), 1e-3)
    expected = torch.nn.functional.rms_norm(x, (5,), weight, 1e-3)
    torch.testing.assert_close(narrow.double(), expected, rtol=1e-6, atol=1e-6)
    gradient = torch.randn_like(expected)
    expected.backward(gradient)
    own, own_weight = (t.detach().float().requires_grad_() for t in (x, weight))
    FusedRMSNorm.apply(own, own_weight, 1e-3).backward(gradient.float())
    torch.testing.assert_close(own.grad.double(), x.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own_weight.grad.double(), weight.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_model_computes_the_same(kind: str) -> None:
    """And so does a copy of it, whose norms are its own."""
    model = make_tiny_model(kind, attention="sdpa")
    logits, gradients = results(model)
    use_fused_norms(model)
    copied = deepcopy(model)
    for one in (model, copied):
        own_logits, own = results(one)
        torch.testing.assert_close(own_logits, logits, rtol=1e-5, atol=1e-5)
        for gradient, expected in zip(own, gradients, strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    norm, own_norm = (m.model.layers[0].input_layernorm for m in (model, copied))
    assert own_norm.forward.args == (own_norm,) and norm.forward.args == (norm,)


def test_under_autocast_gradients_are_as_near_to_float32_as_those_of_transformers() -> None:
    """Autocast once computed the mean of squares in bfloat16, and gradients were 1.4 times as far off."""
    model = make_tiny_model("llama", attention="sdpa")
    exact, autocast = (torch.cat([g.flatten() for g in results(model, on)[1]]) for on in (False, True))
    use_fused_norms(model)
    own = torch.cat([g.flatten() for g in results(model, autocast=True)[1]])
    assert 0 < (own - exact).norm() < 1.2 * (autocast - exact).norm()


def test_other_models_and_types_are_left_alone() -> None:
    for model in (make_tiny_model("gemma", attention="sdpa"), make_tiny_model("llama", 0, 16, torch.bfloat16, "sdpa")):
        logits, _ = results(model)
        use_fused_norms(model)
        torch.testing.assert_close(results(model)[0], logits, rtol=0, atol=0)
