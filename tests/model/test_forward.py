"""The lean forward against transformers' own."""

from typing import Any

import pytest
import torch

from tests.models import KINDS, make_tiny_model
from treepo.engine.torch.cpu import CpuKernel
from treepo.engine.torch.engine import TorchEngine
from treepo.model.attention import TreeAttention
from treepo.model.forward import FUSED_TYPES, FusedForward, PlainForward, TorchOperations
from treepo.model.kernels.compile import load_kernels

IDS = torch.tensor([1, 5, 9, 4, 7, 3, 8, 6, 2, 10, 11, 12])


def context() -> TreeAttention:
    n = len(IDS)
    return TreeAttention([0, n], torch.full((n,), n), torch.arange(n))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in FUSED_TYPES])
@torch.no_grad()
def test_logits_are_those_of_transformers(kind: str, compiled: bool) -> None:
    """For every type, with biases, tied heads, norms of heads, windows and rotary positions."""
    model = make_tiny_model(kind)
    kernels = load_kernels("decode_attention.c")
    if compiled and kernels is None:
        pytest.skip("no C compiler here")
    fused = FusedForward(model, CpuKernel(kernels) if compiled and kernels else TorchOperations())
    at = torch.tensor([0, 3, 11])
    positions = torch.arange(len(IDS))
    wanted = PlainForward(model)(IDS, positions, context(), at)
    for _ in range(2):
        torch.testing.assert_close(fused(IDS, positions, context(), at), wanted, rtol=1e-5, atol=2e-6)
    later = torch.arange(len(IDS)) + 200
    wanted = PlainForward(model)(IDS, later, context(), at)
    torch.testing.assert_close(fused(IDS, later, context(), at), wanted, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize(
    ("kind", "supports_fused"), [("qwen2", True), ("qwen3", True), ("llama", True), ("gemma", False)]
)
def test_which_models_run_fused(kind: str, supports_fused: bool) -> None:
    engine = TorchEngine(make_tiny_model(kind), ())
    assert isinstance(engine.forward, FusedForward) == supports_fused


def test_positions_that_depend_on_the_length_are_left_to_transformers() -> None:
    """A table of rotations made in advance would be that of the longest sequence."""
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    engine = TorchEngine(make_tiny_model("llama", rope_parameters=rope), ())
    assert isinstance(engine.forward, PlainForward)


def test_an_adapter_in_the_place_of_a_linear_map_is_not_passed_over() -> None:
    """It has a weight of its own kind, and the lean forward would take that for the whole map."""

    class Adapter(torch.nn.Linear):
        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return super().forward(*inputs) + 1

    model: Any = make_tiny_model("llama")
    old = model.model.layers[1].mlp.down_proj
    model.model.layers[1].mlp.down_proj = Adapter(old.in_features, old.out_features, bias=False)
    assert isinstance(TorchEngine(model, ()).forward, PlainForward)


@torch.no_grad()
def test_new_weights_are_seen_at_once() -> None:
    """It holds the model's parameters, not copies."""
    model = make_tiny_model("llama")
    fused = FusedForward(model, TorchOperations())
    positions, at = torch.arange(len(IDS)), torch.tensor([11])
    before = fused(IDS, positions, context(), at)
    model.load_state_dict(make_tiny_model("llama", seed=1).state_dict())
    after = fused(IDS, positions, context(), at)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, PlainForward(model)(IDS, positions, context(), at), rtol=1e-5, atol=2e-6)
