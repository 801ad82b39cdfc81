"""Trees against sequential sampling over vLLM in this process, and what the adapter costs: results in results/.

    OMP_NUM_THREADS=2 .venv-vllm/bin/python benchmarks/vllm_engine.py            # about a quarter of an hour

Needs vLLM beside treepo (`make test-vllm` makes .venv-vllm). For two tree shapes `treepo bench rollout` measures
sequential sampling, trees, and trees whose forks are aligned to vLLM's blocks, in turns in one process. Then, for 64
and 1,024 requests at once: how much of the time of a rollout is spent outside vLLM, and beside it vLLM alone with its
own sampling, once seeded and with log-probabilities as treepo has them, and once with neither.
"""

# pyright: reportMissingImports=false

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rollout import MODELS, RESULTS

from treepo.bench.common import describe_machine, load_or_make
from treepo.bench.settings import ArchitectureSettings
from treepo.bench.tables import table
from treepo.engine.base import SampleRequest
from treepo.engine.settings import EngineSettings, VllmSettings
from treepo.engine.vllm.engine import RequestGenerators, VllmEngine
from treepo.engine.vllm.start import start_vllm
from treepo.model.settings import ModelSettings
from treepo.report.bench_results import ROLLOUT_NAME, read_rollout

TREES = {"16x6x32": (16, 6, 32, 64), "64x14x16": (64, 14, 16, 16)}
"""Width, depth, segment length, prompts."""

BLOCK = 32


def measure_trees(names: list[str], repeats: int) -> None:
    """Keep a report per shape."""
    for name in names:
        width, depth, segment_len, prompts = TREES[name]
        grid = {"widths": width, "depths": depth, "segment_lens": segment_len, "aligns": f"1, {BLOCK}"}
        options = [option for key, value in grid.items() for option in (f"--grid.{key}", f"[{value}]")]
        options += ["--prompts.count", str(prompts), "--bench.plain_batches", "[]", "--bench.repeats", str(repeats)]
        with TemporaryDirectory() as folder:
            command = ["-m", "treepo", "bench", "rollout", "--engine.kind", "vllm", *options, "--out", "."]
            subprocess.run([sys.executable, *command], check=True, cwd=folder)
            path = RESULTS / f"vllm-engine-{name}.json"
            path.write_bytes((Path(folder) / ROLLOUT_NAME).read_bytes())


@dataclass(frozen=True)
class Overhead:
    """Seconds of one rollout of `num_requests` requests at once, medians: through the adapter, of that in vLLM, and of
    that in drawing tokens, which it does in the place of vLLM's sampler; and of vLLM alone, with its own sampling.

    outside: share of the adapter's time that is neither vLLM's nor drawing. with_drawing: with drawing counted as well.
    """

    num_requests: int
    seconds: float
    inside_s: float
    drawing_s: float
    outside: float
    with_drawing: float
    seeded_s: float
    bare_s: float


class Timed:
    """Calls a function and adds up the time it takes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = perf_counter()
        result = self.function(*args, **kwargs)
        self.seconds += perf_counter() - start
        return result


def measure_overhead(num_requests: int, repeats: int) -> Overhead:
    """In turns: the adapter, vLLM alone seeded, vLLM alone bare; after a round that warms up."""
    response_len, rng = 64, np.random.default_rng(0)
    policy = load_or_make(ModelSettings(), ArchitectureSettings(**MODELS["0.8M"]), 256, seed=0)
    generators = RequestGenerators()
    limits = EngineSettings(
        max_num_seqs=num_requests, max_num_batched_tokens=num_requests * 192, max_cache_tokens=300_000
    )
    core = start_vllm(VllmSettings(max_model_len=192), limits, policy.model, generators)
    engine = VllmEngine(core, generators, ())
    prompts = [rng.integers(3, 29, size=rng.integers(40, 71)).astype(np.int32) for _ in range(num_requests // 16)]
    requests = [SampleRequest(i, prompts[i % len(prompts)], response_len, 1000 + i) for i in range(num_requests)]
    rounds = []
    for _ in range(repeats + 1):
        engine.update_weights(policy.model)
        step, add, drawing = Timed(core.step), Timed(core.add_request), Timed(generators.sample_tokens)
        core.step, core.add_request, generators.sample_tokens = step, add, drawing
        start = perf_counter()
        for request in requests:
            engine.submit(request)
        num_done = 0
        while num_done < len(requests):
            num_done += len(engine.step())
        seconds = perf_counter() - start
        core.step, core.add_request, generators.sample_tokens = step.function, add.function, drawing.function
        alone = [_alone(core, requests, seeded, len(rounds)) for seeded in (True, False)]
        rounds.append((seconds, step.seconds + add.seconds, drawing.seconds, *alone))
    seconds, called, drawn, seeded_s, bare_s = (median(column) for column in zip(*rounds[1:], strict=True))
    outside = (seconds - called) / seconds
    return Overhead(num_requests, seconds, called - drawn, drawn, outside, outside + drawn / seconds, seeded_s, bare_s)


def _alone(core: Any, requests: list[SampleRequest], seeded: bool, number: int) -> float:
    """Seconds that vLLM takes without the adapter. Its logits processors stand aside."""
    from vllm import SamplingParams  # noqa: PLC0415 - only after it was told how to run
    from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

    assert core.reset_prefix_cache()
    processors = core.engine_core.engine_core.model_executor.driver_worker.worker.model_runner.input_batch.logitsprocs
    ours = processors.non_argmax_invariant[-1:]
    del processors.non_argmax_invariant[-1:]
    start = perf_counter()
    for request in requests:
        params = SamplingParams(
            max_tokens=request.max_new_tokens,
            temperature=1.0,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            seed=request.seed if seeded else None,
            logprobs=0 if seeded else None,
        )
        name = f"alone-{number}-{seeded}-{request.request_id}"
        core.add_request(name, {"prompt_token_ids": request.prefix_ids.tolist()}, params)
    while core.has_unfinished_requests():
        core.step()
    seconds = perf_counter() - start
    processors.non_argmax_invariant.extend(ours)
    return seconds


def main(repeats: int, parts: list[str], trees: list[str]) -> None:
    """Measure, keep and show."""
    console = Console()
    RESULTS.mkdir(exist_ok=True)
    if "overhead" in parts:
        machine = describe_machine("cpu")
        found = [asdict(measure_overhead(n, repeats)) for n in (64, 1024)]
        kept = {"command": " ".join(["python", *sys.argv]), "machine": machine, "overhead": found}
        (RESULTS / "vllm-overhead.json").write_text(json.dumps(kept, indent=1) + "\n")
        console.print_json(json.dumps(found))
    if "trees" in parts:
        measure_trees(trees, repeats)
    for path in sorted(RESULTS.glob("vllm-engine-*.json")):
        for workload in read_rollout(path).workloads:
            console.print(table(workload))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=["trees", "overhead"], default=["overhead", "trees"])
    parser.add_argument("--trees", nargs="+", choices=TREES, default=list(TREES))
    known = parser.parse_args()
    main(known.repeats, known.parts, known.trees)
