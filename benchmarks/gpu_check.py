"""What only a GPU can show, in one command of under eight minutes: is it right, and how fast is it?

    python benchmarks/gpu_check.py                        # all sections; results/gpu-check.json
    python benchmarks/gpu_check.py --only kernel decode   # some of them
    python benchmarks/gpu_check.py --tiny                 # tiny sizes on the CPU: does this script run?

A line per check: PASS or FAIL, figure, what is asked for. A section that fails costs the others nothing; one for which
no time is left is skipped and named, and so is what --tiny cannot show. The exit code is 1 if a check failed.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from treepo.engine.base import SampleRequest, SamplingParams
from treepo.engine.sampling import BatchSamplingParams, sample_tokens
from treepo.engine.torch.attention import BlockTable, GatherKernel
from treepo.engine.torch.engine import TorchEngine, make_kernel
from treepo.engine.torch.kv_cache import BLOCK
from treepo.learn.packing import pack, pack_trajectories
from treepo.learn.scoring import Scorer, collate
from treepo.model.attention import ATTENTION_NAME, register_attention
from treepo.model.policy import recompute_activations
from treepo.tree import Node, StopReason, Tree

RESULTS = Path(__file__).parent / "results" / "gpu-check.json"

SHAPE = {
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
}
"""Qwen2.5-1.5B's, from its published configuration."""

TINY_SHAPE = {
    "vocab_size": 3000,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}

PEAK_FLOPS = 989e12
"""Of an H100 or H200 in bfloat16, dense, from the data sheet."""


@dataclass
class Checks:
    """What was found so far. device: where it runs. seconds: how long all may take."""

    device: torch.device
    seconds: float
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    start: float = field(default_factory=time.monotonic)

    @property
    def is_tiny(self) -> bool:
        """Without a GPU: sizes are tiny and no speed is judged."""
        return self.device.type == "cpu"

    def add(self, name: str, value: object, wanted: str, passed: bool) -> None:
        """Keep a check and show it."""
        self.found[name] = {"value": value, "wanted": wanted, "passed": bool(passed)}
        print(f"{'PASS' if passed else 'FAIL'} {name}: {value} ({wanted})", flush=True)

    def add_speed(self, name: str, value: object, wanted: str, passed: bool) -> None:
        """A figure that is judged on a GPU alone."""
        if self.is_tiny:
            self.skip(name, f"no GPU here; {value} on this CPU")
        else:
            self.add(name, value, wanted, passed)

    def skip(self, name: str, reason: str) -> None:
        """Say what is not checked."""
        self.skipped[name] = reason
        print(f"SKIP {name}: {reason}", flush=True)

    def run(self, name: str, seconds: float, section: "Callable[[Checks], None]") -> None:
        """Run a section that takes about so many seconds, if they are left; its errors are a check that failed."""
        begin = time.monotonic()
        if begin - self.start + seconds > self.seconds:
            self.skip(name, f"less than {seconds:.0f} s are left")
            return
        print(f"-- {name}", flush=True)
        try:
            section(self)
        except Exception as error:  # noqa: BLE001 - the other sections are still to run
            traceback.print_exc()
            self.add(f"{name}/runs", f"{type(error).__name__}: {str(error)[:300]}", "no error", passed=False)
        torch.cuda.empty_cache()
        print(f"   {time.monotonic() - begin:.0f} s", flush=True)

    def timed(self, work: Callable[[], object], repeats: int = 10, warmups: int = 3) -> float:
        """Median of seconds, once all that is asked of the device is done."""
        times = []
        for index in range(warmups + repeats if not self.is_tiny else 2):
            self.synchronize()
            begin = time.perf_counter()
            work()
            self.synchronize()
            if index >= warmups or self.is_tiny:
                times.append(time.perf_counter() - begin)
        return median(times)

    def synchronize(self) -> None:
        """Wait for the device."""
        if not self.is_tiny:
            torch.cuda.synchronize()

    def model(self, dtype: torch.dtype = torch.bfloat16, **sizes: int) -> PreTrainedModel:
        """Random weights."""
        register_attention()
        shape: dict[str, Any] = (TINY_SHAPE if self.is_tiny else SHAPE) | sizes
        config = Qwen2Config(**shape, tie_word_embeddings=True)
        torch.manual_seed(0)
        with self.device:
            return Qwen2ForCausalLM._from_config(config, dtype=dtype, attn_implementation=ATTENTION_NAME).eval()


def kernel(checks: Checks) -> None:
    """Attention over the cache against gathering; then the share of the bandwidth of a copy that it reaches."""
    dtypes = (torch.float32,) if checks.is_tiny else (torch.bfloat16, torch.float32)
    for dtype in dtypes:
        worst = 0.0
        for size in (64, 96, 128, 256):
            for groups, heads in ((2, 12), (1, 8), (8, 8)):
                for window in (None, 40):
                    ours, wanted = (
                        attended(checks, one, 17, 133, (groups, heads, size), dtype, window)()
                        for one in (make_kernel(checks.device), GatherKernel())
                    )
                    worst = max(worst, (ours - wanted).abs().max().item())
        tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-4
        checks.add(f"kernel/max_diff/{dtype}".replace("torch.", ""), worst, f"at most {tolerance}", worst <= tolerance)
    shapes = ((4, 64),) if checks.is_tiny else ((1024, 704), (64, 8192), (16, 16384))
    peak = copy_bandwidth(checks)
    for num_rows, length in shapes:
        work = attended(checks, make_kernel(checks.device), num_rows, length, (2, 12, 128), dtypes[0], None)
        share = 2 * num_rows * length * 2 * 128 * dtypes[0].itemsize / checks.timed(work) / peak
        checks.add_speed(
            f"kernel/bandwidth/{num_rows}x{length}", round(share, 3), "at least 0.7 of a copy's", share >= 0.7
        )


def attended(
    checks: Checks,
    kernel: GatherKernel,
    num_rows: int,
    length: int,
    heads: tuple[int, int, int],
    dtype: torch.dtype,
    window: int | None,
) -> Callable[[], torch.Tensor]:
    """Attention of one query per row, over rows of a length. heads: key heads, query heads, their size."""
    groups, num_heads, size = heads
    num_blocks = -(-length // BLOCK) * num_rows
    generator = torch.Generator(checks.device).manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=checks.device, generator=generator).to(dtype)

    query, keys, values = random(num_rows, num_heads, size), *(random(num_blocks, groups, BLOCK, size) for _ in "kv")
    slots = np.arange(num_blocks * BLOCK, dtype=np.int32).reshape(num_rows, -1)
    starts = slots[:, ::BLOCK].copy()
    counts = np.clip(length - np.arange(starts.shape[1]) * BLOCK, 0, BLOCK).astype(np.int32)
    rows, lens = np.arange(num_rows), np.full(num_rows, length)
    stored = keys.mT.contiguous() if kernel.keys_transposed else keys
    table = BlockTable(
        starts=starts, counts=np.tile(counts, (num_rows, 1)), slots=slots, rows=rows, lens=lens, changed=None
    )
    return lambda: kernel.attend(query, stored, values, table, size**-0.5, window).float()


def copy_bandwidth(checks: Checks) -> float:
    """Bytes read and written per second by a copy."""
    source = torch.empty(1 << (20 if checks.is_tiny else 30), dtype=torch.uint8, device=checks.device)
    target = torch.empty_like(source)
    found = 2 * source.numel() / checks.timed(lambda: target.copy_(source))
    checks.add_speed("copy/TB_per_s", round(found / 1e12, 2), "shown", passed=True)
    return found


def sampling(checks: Checks) -> None:
    """The device draws the tokens that the CPU draws; how long, and with how much memory."""
    num_rows = 8 if checks.is_tiny else 1024
    logits = torch.randn(num_rows, SHAPE["vocab_size"], generator=torch.Generator().manual_seed(0)).bfloat16()
    numbers, rows = np.random.default_rng(0).random(num_rows), np.arange(num_rows)
    here = logits.to(checks.device)
    for name, params in (("all", SamplingParams()), ("top_p", SamplingParams(top_p=0.95))):
        batch = BatchSamplingParams.of([params] * num_rows)
        few = rows[:8]
        tokens, logprobs = sample_tokens(here, rows, batch, numbers)
        wanted, wanted_logprobs = sample_tokens(logits[few], few, batch.of_rows(few), numbers[few])
        same = (tokens[few] == wanted).mean()
        off = np.abs(logprobs[few] - wanted_logprobs)[tokens[few] == wanted].max(initial=0.0)
        checks.add(f"sampling/{name}/same", float(same), "at least 7 of 8: sums are rounded elsewhere", same >= 7 / 8)
        checks.add(f"sampling/{name}/logprob_diff", float(off), "at most 1e-3", off <= 1e-3)
        seconds = checks.timed(lambda batch=batch: sample_tokens(here, rows, batch, numbers))
        checks.add_speed(f"sampling/{name}/ms", round(seconds * 1e3, 2), "at most 2 of 1,024 rows", seconds <= 2e-3)


def decode(checks: Checks) -> None:
    """Tokens per second of the engine; how busy the GPU is, and how often the host waits for it."""
    for name, dtype, autocast in (("bfloat16", torch.bfloat16, None), ("autocast", torch.float32, torch.bfloat16)):
        model = checks.model(dtype)
        for num_paths in (8,) if checks.is_tiny else (64, 1024):
            prompt_len, length = (16, 64) if checks.is_tiny else (256, 900)
            num_tokens = num_paths * (prompt_len + length + 2 * BLOCK)
            engine = TorchEngine(model, [], num_paths, max_cache_tokens=num_tokens, autocast=autocast)
            for i in range(num_paths):
                prompt = np.random.default_rng(i // 16).integers(1, 2000, prompt_len).astype(np.int32)
                engine.submit(SampleRequest(i, prompt, length, i, group=i // 16))
            for _ in range(4 if checks.is_tiny else 20):
                engine.step()
            seconds = checks.timed(engine.step, 30, 5)
            checks.add_speed(f"decode/{name}/{num_paths}/tok_per_s", round(num_paths / seconds), "shown", passed=True)
            if not checks.is_tiny:
                profile(checks, f"decode/{name}/{num_paths}", engine, seconds)
            engine.close()
            torch.cuda.empty_cache()


def profile(checks: Checks, name: str, engine: TorchEngine, seconds: float) -> None:
    """Count what a step of an engine does. seconds: how long one takes without a profiler."""
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as found:
        engine.step()
    events = found.key_averages()
    busy = sum(event.self_device_time_total for event in events) / 1e6 / seconds
    waits = sum(event.count for event in events if "StreamSynchronize" in event.key)
    launches = sum(event.count for event in events if "LaunchKernel" in event.key)
    checks.add(f"{name}/busy", round(busy, 3), "at least 0.8", busy >= 0.8)
    checks.add(f"{name}/waits", waits, "at most 1", waits <= 1)
    checks.add(f"{name}/launches", launches, "shown", passed=True)


def update(checks: Checks) -> None:
    """Gradients of packed trees against trajectories one by one, compilations, speed and memory."""
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 1000}
    model = checks.model(torch.float32, **sizes, num_attention_heads=4)
    scorer, tree = Scorer(model), comb(0, 8, 50, 9)
    weights = np.random.default_rng(0).normal(size=8)
    found = [gradients(model, scorer, parts) for parts in ([pack(tree, weights)], pack_trajectories(tree, weights))]
    diff = ((found[0] - found[1]).norm() / found[1].norm()).item()
    checks.add("update/gradient_diff", diff, "at most 1e-3 in float32", diff <= 1e-3)
    if checks.is_tiny:
        checks.skip("update/graphs", "FlexAttention is compiled on GPUs alone")
    else:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        for n in range(6):
            gradients(model, scorer, [pack(comb(n, 8, 50 + 13 * n, 9 + n), np.ones(8))])
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        checks.add("update/graphs", graphs, "at most 4 for 6 sizes", graphs <= 4)
    model = checks.model(torch.float32)
    recompute_activations(model)
    scorer = Scorer(model, autocast=torch.bfloat16)
    packed = [pack(comb(1, *((4, 16, 8) if checks.is_tiny else (16, 256, 330))), np.ones(4 if checks.is_tiny else 16))]
    if not checks.is_tiny:
        torch.cuda.reset_peak_memory_stats()
    seconds = checks.timed(lambda: gradients(model, scorer, packed), 3, 2)
    # Forward, forward again for the activations, and backward, which is twice as much.
    flops = 8 * sum(p.numel() for p in model.parameters()) * packed[0].num_tokens
    share = flops / seconds / PEAK_FLOPS
    checks.add_speed(
        "update/share_of_peak", round(share, 3), f"at least 0.35, {packed[0].num_tokens} tokens", share >= 0.35
    )
    if not checks.is_tiny:
        checks.add("update/peak_GiB", round(torch.cuda.max_memory_allocated() / 2**30, 1), "shown", passed=True)


def comb(seed: int, num_leaves: int, prompt_len: int, segment_len: int) -> Tree:
    """A tree whose one long path drops a leaf after each of its segments, which are half as long as a leaf."""
    rng = np.random.default_rng(seed)

    def ids(count: int) -> np.ndarray:
        return rng.integers(1, 900, count).astype(np.int32)

    tree, parent = Tree.from_prompt("check", ids(prompt_len), seed), 0
    for _ in range(num_leaves):
        tree.add(Node(parent, ids(segment_len), np.zeros(segment_len, np.float32), 0, StopReason.LENGTH))
        if len(tree.leaves()) < num_leaves:
            parent = tree.add(Node(parent, ids(segment_len // 2), np.zeros(segment_len // 2, np.float32), 0))
    return tree


def gradients(model: PreTrainedModel, scorer: Scorer, parts: list[Any]) -> torch.Tensor:
    """Of the sum of all targets' log-probabilities, each times the sum of the weights of the leaves below it."""
    model.zero_grad(set_to_none=True)
    for part in parts:
        weights = torch.from_numpy(part.sum_over_leaves(part.leaf_advantages).astype(np.float32)).to(model.device)
        (scorer(collate([part])).policy_logprobs * weights).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


SECTIONS: dict[str, tuple[float, Callable[[Checks], None]]] = {
    "kernel": (60, kernel),
    "sampling": (15, sampling),
    "decode": (150, decode),
    "update": (150, update),
}
"""By name: about how many seconds a section takes on one H200, and what it does."""

NOT_YET = "memory bound after running out, a LoRA step, kill and resume, a run that learns: not part of this script yet"


def main(only: list[str], tiny: bool, out: Path | None, seconds: float) -> int:
    """Run the sections and keep what was found."""
    if not (tiny or torch.cuda.is_available()):
        print("no GPU here: nothing is checked; --tiny shows on the CPU whether this script runs")
        return 0
    checks = Checks(torch.device("cpu" if tiny else "cuda"), seconds)
    for name in only or SECTIONS:
        checks.run(name, 0 if tiny else SECTIONS[name][0], SECTIONS[name][1])
    checks.skip("others", NOT_YET)
    report = {
        "device": "cpu" if tiny else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - checks.start, 1),
        "checks": checks.found,
        "skipped": checks.skipped,
    }
    if out or not tiny:
        (out or RESULTS).write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(check["passed"] for check in checks.found.values()) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=[])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, help=f"where the figures go (default: {RESULTS.name}; --tiny keeps none)")
    parser.add_argument("--seconds", type=float, default=460, help="sections that would end later are skipped")
    options = parser.parse_args()
    sys.exit(main(options.only, options.tiny, options.out, options.seconds))
