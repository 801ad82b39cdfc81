"""How fast the embedded engine decodes with a real model, in float32 and bfloat16, and how much of that time its matrix
products alone would take.

    OMP_NUM_THREADS=2 python benchmarks/decoding.py MODEL_FOLDER            # results/decoding.json

Every path has a prompt of its own of 40-70 random tokens; answers have a fixed length. The products are those of one
step, called one after the other as torch computes them, timed beside the steps in the same process. bfloat16 runs
also where the engine would choose float32.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import linear

from treepo.engine.base import SampleRequest
from treepo.engine.torch.engine import TorchEngine
from treepo.model.forward import FusedForward
from treepo.model.linear_maps import bfloat16_instructions
from treepo.model.policy import load_policy

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def submit(engine: TorchEngine, num_paths: int, num_tokens: int, vocab_size: int) -> None:
    """The same requests every time."""
    rng = np.random.default_rng(0)
    for i in range(num_paths):
        prompt = rng.integers(3, vocab_size, size=rng.integers(40, 71)).astype(np.int32)
        engine.submit(SampleRequest(i, prompt, num_tokens, seed=i, group=i))


def decode(engine: TorchEngine, num_paths: int, num_tokens: int, vocab_size: int) -> tuple[float, list[float]]:
    """Seconds of everything, and of each step without a prefill."""
    submit(engine, num_paths, num_tokens, vocab_size)
    steps, begin, num_ended = [], time.perf_counter(), 0
    while num_ended < num_paths:
        before, num_prefilled = time.perf_counter(), engine.counters.num_prefilled
        num_ended += len(engine.step())
        if engine.counters.num_prefilled == num_prefilled:
            steps.append(time.perf_counter() - before)
    seconds = time.perf_counter() - begin
    for i in range(num_paths):
        engine.abort_group(i)
    return seconds, steps


def products(model: nn.Module, dtype: torch.dtype) -> list[torch.Tensor]:
    """The weights of all matrix products of a step, the head last."""
    return [m.weight.detach().to(dtype) for m in model.modules() if isinstance(m, nn.Linear)]


@torch.no_grad()
def time_products(weights: list[torch.Tensor], num_rows: int) -> float:
    """Seconds of each product once."""
    inputs = {n: torch.randn(num_rows, n).to(weights[0].dtype) for n in {w.shape[1] for w in weights}}
    begin = time.perf_counter()
    for weight in weights:
        linear(inputs[weight.shape[1]], weight)
    return time.perf_counter() - begin


def measure(model: Any, paths: int, num_tokens: int, repeats: int) -> dict[str, Any]:
    """Both types in turns; the floor of each is timed before and after its steps."""
    engines, weights = {}, {}
    for name, dtype in DTYPES.items():
        engines[name] = engine = TorchEngine(model, (), paths, max_cache_tokens=paths * (num_tokens + 96))
        engine.forward = FusedForward(model, engine.kernel, dtype)  # pyright: ignore[reportArgumentType]
        weights[name] = products(model, dtype)
    found: dict[str, dict[str, list[float]]] = {name: {"total": [], "step": [], "floor": []} for name in DTYPES}
    for repeat in range(repeats + 1):
        for name, engine in engines.items():
            floors = [time_products(weights[name], paths) for _ in range(3)]
            total, steps = decode(engine, paths, num_tokens, model.config.vocab_size)
            floors += [time_products(weights[name], paths) for _ in range(3)]
            if repeat > 0:  # the first one makes copies and kernels
                found[name]["total"].append(total)
                found[name]["step"].append(median(steps))
                found[name]["floor"].append(median(floors))
    result: dict[str, Any] = {}
    for name, seconds in found.items():
        step, floor = median(seconds["step"]), median(seconds["floor"])
        share = median(f / s for f, s in zip(seconds["floor"], seconds["step"], strict=True))
        result[name] = {"step_ms": 1e3 * step, "floor_ms": 1e3 * floor, "share_of_floor": share}
        result[name] |= {
            "decoded_per_s": paths / step,
            "with_prefill_per_s": paths * num_tokens / median(seconds["total"]),
        }
        print(f"{paths:4} paths {name:9}", "  ".join(f"{k} {v:.3g}" for k, v in result[name].items()), flush=True)
    return result


def cpu_name() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    """Measure every number of paths and write one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--paths", type=int, nargs="+", default=[16, 64, 128, 256])
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "decoding.json")
    given = parser.parse_args()
    model = load_policy(given.model).model
    about = {"model": Path(given.model).name, "parameters": sum(p.numel() for p in model.parameters())}
    about |= {"cpu": cpu_name(), "bfloat16_instructions": bfloat16_instructions(), "torch": torch.__version__}
    about |= {"threads": torch.get_num_threads(), "tokens": given.tokens, "repeats": given.repeats}
    results: dict[str, Any] = {}
    for paths in given.paths:
        results[str(paths)] = measure(model, paths, given.tokens, given.repeats)
        given.out.write_text(json.dumps(about | {"paths": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
