"""Sampling and decoding: do the device and the CPU sample the same, how fast, and what if memory runs out?"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from statistics import mean

import numpy as np
import torch
from transformers import PreTrainedModel

from gpu_checks.checks import SHAPES, TINY_SHAPE, Checks
from gpu_checks.roofline import floor_seconds
from treepo.data.problem import Problem
from treepo.engine.base import SampleRequest, SamplingParams
from treepo.engine.sampling import BatchSamplingParams, sample_tokens
from treepo.engine.torch.engine import TorchEngine
from treepo.engine.torch.kv_cache import BLOCK
from treepo.grow.branching import EvenBranching, InitialFork
from treepo.grow.builder import GrowthRules
from treepo.grow.fallback import Backtrack
from treepo.grow.sampler import TreeSampler
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import StopRules
from treepo.tree import Tree


def sampling(checks: Checks) -> None:
    """The device draws the tokens that the CPU draws; how long, and with how much memory."""
    num_rows, vocab_size = (8, TINY_SHAPE["vocab_size"]) if checks.is_tiny else (1024, SHAPES["1.5B"]["vocab_size"])
    logits = torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(0)).bfloat16()
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


@dataclass(frozen=True)
class Decoding:
    """One way to decode. num_steps: tokens of each path between looks of the host."""

    name: str
    model: PreTrainedModel
    autocast: torch.dtype | None
    num_paths: int
    num_steps: int


def decode(checks: Checks) -> None:
    """Tokens per second of the engine, with and without the host between steps: how much of the least time that the
    device needs, how busy it is, and how often the host waits for it."""
    few, many = (4, 8) if checks.is_tiny else (64, 1024)
    for shape, dtype, autocast, counts, every in (
        ("1.5B", torch.bfloat16, None, (few, many), (1, 16)),
        ("1.5B", torch.float32, torch.bfloat16, (many,), (16,)),
        ("7B", torch.bfloat16, None, (few, many), (16,)),
    ):
        model = checks.model(dtype, **({} if checks.is_tiny else SHAPES[shape]))
        for num_paths, num_steps in product(counts, every):
            kind = "autocast" if autocast else "bfloat16"
            name = f"decode/{shape}/{kind}/{num_paths}/every{num_steps}"
            decode_one(checks, Decoding(name, model, autocast, num_paths, num_steps))
        del model
        torch.cuda.empty_cache()


def decode_one(checks: Checks, case: Decoding) -> None:
    """Time the steps that only decode."""
    name, num_paths, num_steps = case.name, case.num_paths, case.num_steps
    prompt_len, length = (16, 100) if checks.is_tiny else (512, 400)
    num_tokens = num_paths * (prompt_len + length + 4 * BLOCK)
    engine = TorchEngine(
        case.model,
        [],
        num_paths,
        max_cache_tokens=num_tokens,
        autocast=case.autocast,
        num_scheduler_steps=num_steps,
    )
    for i in range(num_paths):
        prompt = np.random.default_rng(i // 16).integers(1, 2000, prompt_len).astype(np.int32)
        engine.submit(SampleRequest(i, prompt, length, i, group=i // 16))
    while engine.waiting:
        engine.step()
    # In each way that there is: as it is, captured, and repeated.
    for _ in range(3):
        engine.step()
    before = engine.counters
    floors = [floor_seconds(checks, engine)]
    seconds = checks.timed(engine.step, 12, 2)
    made, num_calls = engine.counters - before, 2 if checks.is_tiny else 14
    floors.append(floor_seconds(checks, engine))
    rate, share = made.num_decoded / num_calls / seconds, made.num_steps / num_calls * mean(floors) / seconds
    wanted = (0.7 if num_paths > 64 else 0.5) if num_steps > 1 else 0.0
    checks.add_speed(f"{name}/tok_per_s", round(rate), "shown", passed=True)
    checks.add_speed(f"{name}/share_of_roofline", round(share, 3), f"at least {wanted}", share >= wanted)
    if not checks.is_tiny:
        profile(checks, name, engine, seconds)
    engine.close()
    torch.cuda.empty_cache()


def profile(checks: Checks, name: str, engine: TorchEngine, seconds: float) -> None:
    """Count what a call of an engine's step does. seconds: how long one takes without a profiler."""
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    num_steps = engine.counters.num_steps
    with torch.profiler.profile(activities=kinds, acc_events=True) as found:
        engine.step()
    num_steps = engine.counters.num_steps - num_steps
    events = found.key_averages()
    # torch's operations count the time of their kernels, too, which are events of their own.
    kernels = [event for event in events if event.device_type == torch.profiler.DeviceType.CUDA]
    busy = sum(event.self_device_time_total for event in kernels) / 1e6 / seconds
    waits = sum(event.count for event in events if "StreamSynchronize" in event.key)
    launches = sum(event.count for event in events if "LaunchKernel" in event.key or "GraphLaunch" in event.key)
    checks.add(f"{name}/busy", round(busy, 3), "at least 0.8", busy >= 0.8)
    checks.add(f"{name}/waits", waits, f"at most 1 in {num_steps} tokens of each path", waits <= 1)
    checks.add(f"{name}/launches", round(launches / num_steps, 1), "shown; per token of each path", passed=True)


SMALL = {"vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}
"""A model that the CPU decodes with, too."""


def trees(checks: Checks) -> None:
    """The same seeds grow the same trees on the CPU and on the device, up to rounding."""
    model = checks.model(torch.float32, **({} if checks.is_tiny else SMALL), num_attention_heads=4)
    # At the usual scale of random weights all tokens are about as likely, and no rounding would show.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
    num_trees = 2 if checks.is_tiny else 8
    here = grown(model, num_trees)
    expected = grown(deepcopy(model).cpu(), num_trees)
    pairs = [
        (ours, theirs)
        for one, other in zip(here, expected, strict=True)
        for ours, theirs in zip(one.trajectories(), other.trajectories(), strict=True)
    ]
    same = [np.array_equal(ours.token_ids, theirs.token_ids) for ours, theirs in pairs]
    diffs = [
        np.abs(ours.sampled_logprobs - theirs.sampled_logprobs).max()
        for (ours, theirs), is_same in zip(pairs, same, strict=True)
        if is_same
    ]
    share, diff = float(np.mean(same)), float(max(diffs, default=np.inf))
    checks.add("trees/same_paths", round(share, 3), f"at least 0.9 of {len(pairs)}, in float32", share >= 0.9)
    checks.add("trees/logprob_diff", diff, "at most 1e-3", diff <= 1e-3)


def grown(model: PreTrainedModel, num_trees: int) -> list[Tree]:
    """A tree of 8 paths for each of some random prompts."""
    rules = GrowthRules(
        shape=TreeShape(width=8, depth=4, segment_len=16, num_children=2),
        initial_fork=InitialFork(2, 2),
        branching=EvenBranching(),
        fallback=Backtrack(),
        stopping=StopRules(repetition="never"),
    )
    numbers = np.random.default_rng(0)
    problems = [Problem(f"{i}", "", tuple(numbers.integers(1, 500, 40).tolist()), "") for i in range(num_trees)]
    engine = TorchEngine(model, [0], 64, max_cache_tokens=1 << 14)
    found = dict(TreeSampler(engine, rules).grow(problems, seed=0))
    engine.close()
    return [found[i] for i in range(num_trees)]


def memory(checks: Checks) -> None:
    """Where memory runs out, fewer sequences run at a time: all get their tokens, and later ones need no more."""
    num_paths, prompt_len, length = (24, 8, 8) if checks.is_tiny else (256, 64, 512)
    sizes = {} if checks.is_tiny else SMALL | {"hidden_size": 1536, "num_hidden_layers": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4} if checks.is_tiny else {"num_key_value_heads": 12}
    model = checks.model(torch.float32, **(sizes | heads))
    prompts = [np.random.default_rng(i // 4).integers(1, 500, prompt_len).astype(np.int32) for i in range(num_paths)]
    requests = [SampleRequest(i, prompt, length, i, group=i // 4) for i, prompt in enumerate(prompts)]
    num_tokens = num_paths * (prompt_len + length + 2 * BLOCK)
    free = TorchEngine(model, [], num_paths, max_cache_tokens=num_tokens)
    expected = answers(free, requests)
    cache_bytes = free.cache_bytes
    free.close()
    limit = checks.allocated() + cache_bytes // 2
    engine = TorchEngine(model, [], num_paths, max_cache_tokens=num_tokens)
    with checks.memory_limit(limit, engine, num_paths // 2):
        found = [answers(engine, requests) for _ in range(2)]
        peak = checks.allocated(peak=True)
    engine.close()
    same = float(np.mean([tokens == expected[name] for one in found for name, tokens in one.items()]))
    checks.add("memory/max_num_seqs", engine.max_num_seqs, f"below {num_paths}", engine.max_num_seqs < num_paths)
    checks.add("memory/same_paths", round(same, 3), "at least 0.9", same >= 0.9)
    if checks.is_tiny:
        checks.skip("memory/peak", "the error is raised by this script here; a GPU has less memory in truth")
    else:
        checks.add("memory/peak_GiB", round(peak / 2**30, 2), f"at most {limit / 2**30:.2f}", peak <= limit)


def answers(engine: TorchEngine, requests: Sequence[SampleRequest]) -> dict[int, list[int]]:
    """Tokens of each request."""
    for request in requests:
        engine.submit(request)
    found: dict[int, list[int]] = {}
    while len(found) < len(requests):
        found |= {result.request_id: result.token_ids.tolist() for result in engine.step()}
    for group in {request.group for request in requests}:
        engine.abort_group(group)
    return found
