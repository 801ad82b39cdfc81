"""FlexAttention's kernels over packed trees, forward and backward, compiled for GPUs that need not be there.

    python benchmarks/flex_kernels.py                                  # all; results/flex-kernels.json
    python benchmarks/flex_kernels.py --gpus L4 --sizes 256 --out x.json

A line per kernel: its blocks, shared memory, registers, and the bytes of registers that each thread spills. The exit
code is 1 if one needs more shared memory than the GPU has, which fails when it is launched, or spills more than
--spills.

Dynamo and autograd trace on the CPU; then every tensor is said to be on a GPU, whose properties are stand-ins, and
Inductor writes its Triton code, which Triton compiles for that target. It reaches into torch's insides, so it is no
test: written for torch 2.13, Triton 3.9.
"""

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from torch._dynamo.device_interface import CudaInterface
from torch._functorch import config as functorch_config
from torch._inductor import config as inductor_config
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention import flex_attention as flex
from torch.utils._pytree import tree_map
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from treepo.model import attention

RESULTS = Path(__file__).parent / "results" / "flex-kernels.json"

GPUS = {"A100": ((8, 0), 163), "L4, RTX 4090": ((8, 9), 99), "H100, H200": ((9, 0), 227)}
"""Compute capability, and KiB of shared memory that a program may have, from the CUDA programming guide."""

TYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}

GPU = torch.device("cuda:0")


class EnoughError(Exception):
    """Both graphs are compiled; neither is run."""


def main(names: list[str], sizes: list[int], spills: int, out: Path) -> int:
    """Compile all kernels and keep what they need."""
    found = []
    for name in names:
        capability, memory = GPUS[name]
        for type_name, dtype in TYPES.items():
            for size in sizes:
                # Windows and numbers of heads change little: they are tried once.
                is_common = size == 128 and type_name == "bfloat16"
                for groups, window in ((2, None), (12, None), (2, 100)) if is_common else ((2, None),):
                    given = {"gpu": name, "dtype": type_name, "head_size": size, "groups": groups, "window": window}
                    for kernel in kernels(capability, dtype, size, groups, window):
                        passed = kernel["shared_KiB"] <= memory and kernel["spilled_bytes"] <= spills
                        found.append(given | kernel | {"passed": passed})
                        print("PASS" if passed else "FAIL", *found[-1].values(), flush=True)
    out.write_text(json.dumps({"torch": torch.__version__, "triton": triton.__version__, "kernels": found}) + "\n")
    return 0 if all(kernel["passed"] for kernel in found) else 1


def kernels(
    capability: tuple[int, int], dtype: torch.dtype, size: int, groups: int, window: int | None
) -> Iterator[dict[str, Any]]:
    """What the attention's kernels need, forward and backward."""
    for code in inductor_code(capability, dtype, size, groups, window):
        for name, source in re.findall(r"= async_compile\.triton\('(\w*triton_tem\w*)', '''(.*?)'''", code, re.DOTALL):
            with TemporaryDirectory() as folder:
                path = Path(folder) / "kernel.py"
                path.write_text(source)
                spec = importlib.util.spec_from_file_location("kernel", path)
                assert spec is not None and spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                kernel = getattr(module, name)
                binary = compiled(kernel, capability)
                (path := Path(folder) / "kernel.cubin").write_bytes(binary.asm["cubin"])
                registers, stack = resources(path)
            options = kernel.inductor_meta["config_args"]
            yield {
                "kernel": "backward" if "backward" in name else "forward",
                "blocks": [options[key] for key in options if re.match(r"BLOCK_[MN]\d?$", key)],
                "is_divisible": options["IS_DIVISIBLE"],
                "shared_KiB": round(binary.metadata.shared / 1024, 1),
                "registers": registers,
                "spilled_bytes": stack,
            }


def compiled(kernel: Any, capability: tuple[int, int]) -> Any:
    """The binary of an Inductor kernel with a single configuration."""
    meta, (config,) = kernel.triton_meta, kernel.configs
    source = ASTSource(kernel.fn, meta["signature"], meta["constants"], meta["configs"][0])
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    return compile_kernel(source, target=target(capability), options=options)


def resources(path: Path) -> tuple[int, int]:
    """(registers, bytes of stack) of a thread of a binary's kernel; registers that are spilled lie on the stack."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [tool, "--dump-resource-usage", path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found is not None, text
    return int(found[1]), int(found[2])


def target(capability: tuple[int, int]) -> GPUTarget:
    """What Triton compiles for."""
    return GPUTarget("cuda", 10 * capability[0] + capability[1], 32)


def inductor_code(
    capability: tuple[int, int], dtype: torch.dtype, size: int, groups: int, window: int | None
) -> list[str]:
    """What Inductor writes for the forward and the backward pass of 12 query heads over 1,000 tokens."""
    codes: list[str] = []

    def keep_code(graph: GraphLowering) -> Any:
        codes.append(graph.codegen()[0].value)
        if len(codes) == 2:
            raise EnoughError
        return SimpleNamespace(call=lambda _: None, __file__="", cache_key="", cache_path="", cache_linemap=None)

    torch._dynamo.reset()
    tree = attention.FlexTreeAttention(torch.ones(1000, dtype=torch.int64), torch.ones(1000, dtype=torch.int64))
    query, key, value = (
        torch.empty(1, heads, 1000, size, dtype=dtype, requires_grad=True) for heads in (12, groups, groups)
    )
    options = attention.kernel_options(size, dtype, capability)
    compiled_attend = attention._compiled()

    def with_options(query: Tensor, key: Tensor, value: Tensor, mask: flex.BlockMask, _: object) -> Tensor:
        return compiled_attend(query, key, value, mask, options)

    with ExitStack() as stack:
        for patched in stand_ins(capability):
            stack.enter_context(patched)
        stack.enter_context(patch.object(GraphLowering, "compile_to_module", keep_code))
        stack.enter_context(
            patch.object(attention, "_attend", lambda q, k, v, mask, _: compiled_attend(q, k, v, mask, options))
        )
        try:
            tree(0, query, key, value, 0.1, window)
        except Exception:
            # Inductor wraps the error.
            if len(codes) < 2:
                raise
    return codes


def stand_ins(capability: tuple[int, int]) -> list[Any]:
    """A GPU as Inductor asks for it, and the device of all tensors that it is given."""
    properties = SimpleNamespace(
        name="GPU",
        major=capability[0],
        minor=capability[1],
        multi_processor_count=108,
        regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048,
        max_threads_per_block=1024,
        warp_size=32,
        gcnArchName="",
    )
    driver: Any = SimpleNamespace(
        get_current_target=lambda: target(capability), get_current_device=lambda: 0, get_current_stream=lambda _: 0
    )
    triton.runtime.driver.set_active(driver)
    init, kernel_flags = GraphLowering.__init__, flex._apply_kernel_options

    def init_on_gpu(graph: GraphLowering, gm: torch.fx.GraphModule, *args: Any, **options: Any) -> None:
        for one in gm.modules():
            for node in one.graph.nodes if isinstance(one, torch.fx.GraphModule) else ():
                node.args, node.kwargs = tree_map(on_gpu, node.args), tree_map(on_gpu, node.kwargs)
                tree_map(on_gpu, (node.meta.get("val"), node.meta.get("example_value")))
        tree_map(on_gpu, options["example_inputs"])
        init(graph, gm, *tree_map(on_gpu, args), **options)

    def flags_on_gpu(*args: Any) -> Any:
        # On the CPU there is no backward pass, which needs it.
        return kernel_flags(*args) | {"OUTPUT_LOGSUMEXP": True}

    answers = {"device_count": 1, "current_device": 0, "get_device_properties": properties}
    interface = answers | {"is_available": True, "is_bf16_supported": True}
    answers["get_device_capability"] = capability
    return [
        *(patch.object(torch.cuda, name, return_value=answer) for name, answer in answers.items()),
        *(patch.object(CudaInterface, name, return_value=answer) for name, answer in interface.items()),
        patch.object(GraphLowering, "__init__", init_on_gpu),
        patch.object(flex, "_validate_device", lambda *_: None),
        patch.object(flex, "_apply_kernel_options", flags_on_gpu),
        functorch_config.patch(force_non_lazy_backward_lowering=True),
        inductor_config.patch(fx_graph_cache=False),
    ]


def on_gpu(value: Any) -> Any:
    """A fake tensor said to be on the GPU; a device replaced by it."""
    if isinstance(value, FakeTensor):
        value.fake_device = GPU
    return GPU if isinstance(value, torch.device) else value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", nargs="+", choices=GPUS, default=list(GPUS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 80, 128, 256], help="sizes of heads")
    parser.add_argument("--spills", type=int, default=2048, help="bytes of registers that a thread may spill")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    sys.exit(main(chosen.gpus, chosen.sizes, chosen.spills, chosen.out))
