"""The engine's linear maps: types, copies, adapters."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models import make_tiny_model
from treepo.config.load import resolve
from treepo.engine.torch.cpu import CpuKernel
from treepo.engine.torch.engine import TorchEngine
from treepo.model import linear_maps
from treepo.model.adapters import add_adapter
from treepo.model.attention import TreeAttention
from treepo.model.forward import FusedForward, PlainForward, TorchOperations
from treepo.model.kernels.compile import load_kernels
from treepo.model.linear_maps import LinearMaps, product_dtype
from treepo.model.settings import LoraSettings
from treepo.run.parts import autocast_of

IDS = torch.arange(40) % 16


def logits_of(forward: Callable[..., Tensor]) -> Tensor:
    n = len(IDS)
    context = TreeAttention([0, n], torch.full((n,), n), torch.arange(n))
    with torch.no_grad():
        return forward(IDS, torch.arange(n), context, torch.arange(n)).double()


def with_adapter(model: Any) -> Any:
    """Adapters that change the logits; as added they change nothing."""
    pytest.importorskip("peft")
    add_adapter(model, LoraSettings(rank=3, alpha=6.0), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def operations(compiled: bool) -> TorchOperations:
    kernels = load_kernels("decode_attention.c")
    if compiled and kernels is None:
        pytest.skip("no C compiler here")
    return CpuKernel(kernels) if compiled and kernels else TorchOperations()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_bfloat16_is_as_close_to_float32_as_autocast(kind: str, adapted: bool, compiled: bool) -> None:
    """Over copies of float32 weights, with adapters merged into them, and over weights in bfloat16."""
    model = make_tiny_model(kind)
    model = with_adapter(model) if adapted else model
    exact = logits_of(PlainForward(model))
    allowed = 2 * (logits_of(PlainForward(model, torch.bfloat16)) - exact).square().mean().sqrt()
    forward = FusedForward(model, operations(compiled), torch.bfloat16)
    assert (logits_of(forward) - exact).square().mean().sqrt() < allowed
    narrow = make_tiny_model(kind, dtype=torch.bfloat16)
    if not adapted:
        for dtype in (torch.bfloat16, torch.float32):
            forward = FusedForward(narrow, operations(compiled), dtype)
            assert (logits_of(forward) - exact).square().mean().sqrt() < allowed


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_adapters_in_float32_are_those_of_the_model(kind: str, compiled: bool) -> None:
    model = with_adapter(make_tiny_model(kind))
    assert isinstance(TorchEngine(model, ()).forward, FusedForward)
    fused, plain = logits_of(FusedForward(model, operations(compiled))), logits_of(PlainForward(model))
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=5e-6)
    model.disable_adapters()
    assert not torch.allclose(logits_of(PlainForward(model)), plain)


@pytest.mark.filterwarnings("ignore:.*lora_bias")
@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
def test_variants_of_adapters_are_left_to_peft(settings: dict[str, bool]) -> None:
    peft = pytest.importorskip("peft")
    model: Any = make_tiny_model("qwen2")
    model.add_adapter(peft.LoraConfig(r=2, target_modules="all-linear", **settings))
    assert isinstance(TorchEngine(model, ()).forward, PlainForward)


def test_modules_that_are_trained_whole_are_left_to_peft() -> None:
    pytest.importorskip("peft")
    model: Any = make_tiny_model("llama")
    add_adapter(model, LoraSettings(rank=2, modules_to_save=("norm",)), seed=0)
    assert isinstance(TorchEngine(model, ()).forward, PlainForward)


def test_copies_are_made_again_after_an_update() -> None:
    """They are those of the weights at the first forward after `release`, and are counted."""
    model = make_tiny_model("llama")
    forward = FusedForward(model, TorchOperations(), torch.bfloat16)
    copied = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert forward.num_copied_bytes == 2 * sum(m.weight.numel() for m in copied)
    assert FusedForward(model, TorchOperations()).num_copied_bytes == 0
    before = logits_of(forward)
    model.load_state_dict(make_tiny_model("llama", seed=1).state_dict())
    forward.release()
    fresh = FusedForward(make_tiny_model("llama", seed=1), TorchOperations(), torch.bfloat16)
    assert torch.equal(logits_of(forward), logits_of(fresh))
    assert not torch.equal(logits_of(forward), before)


@pytest.mark.parametrize("sizes", [(24, 40), (576, 64), (64, 200)])
def test_rows_of_bfloat16_products_do_not_depend_on_each_other(sizes: tuple[int, int]) -> None:
    """Any number of rows gives the bits that all of them give, and those of torch's own product."""
    generator = torch.Generator().manual_seed(0)
    module = nn.Linear(*sizes)
    maps = LinearMaps([module], torch.bfloat16)
    x = torch.randn(300, sizes[0], generator=generator).bfloat16()
    with torch.no_grad():
        [every] = maps(x)
        assert torch.equal(every, nn.functional.linear(x, module.weight.bfloat16(), module.bias.bfloat16()))
        for n in (*range(16, 40), 63, 64, 65, 100, 128, 129, 256, 299):
            assert torch.equal(maps(x[:n])[0], every[:n]), n


def test_which_type_products_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer's, but float32 where the processor has nothing that makes bfloat16 faster."""
    wide, narrow = make_tiny_model(), make_tiny_model(dtype=torch.bfloat16)
    for instructions, expected in (("AMX", torch.bfloat16), (None, torch.float32)):
        monkeypatch.setattr(linear_maps, "bfloat16_instructions", lambda found=instructions: found)
        assert product_dtype(wide, None) == torch.float32
        assert product_dtype(wide, torch.bfloat16) == product_dtype(narrow, None) == expected
    assert product_dtype(make_tiny_model(dtype=torch.float64), None) == torch.float64


def test_auto_is_what_the_device_is_faster_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """In trainer and engine; weights that are bfloat16 already, or float64, stay what they are."""
    wide, narrow = make_tiny_model(), make_tiny_model(dtype=torch.bfloat16)
    auto = resolve({"train": {"autocast": "auto"}, "model": {"path": "m"}})
    for instructions, expected in (("AMX", torch.bfloat16), (None, None)):
        monkeypatch.setattr(linear_maps, "bfloat16_instructions", lambda found=instructions: found)
        assert autocast_of(auto, wide) == expected
        assert autocast_of(auto, narrow) is None
        assert autocast_of(resolve({"train": {"autocast": "bfloat16"}}), wide) == torch.bfloat16
        assert autocast_of(resolve({}), wide) is None
