"""Rollouts over prompts of 2,048 tokens: what do trees gain, and which engine is faster, the embedded one or vLLM?"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import gpu_rollout

from gpu_checks.checks import Checks
from treepo.report.bench_results import ROLLOUT_NAME, read_rollout

SEQUENTIAL = "sequential"
"""What `treepo bench rollout` calls sequential sampling."""


def engines(checks: Checks) -> None:
    """Trajectories per second of trees and of sequential sampling over a 1.5B shape, by `treepo bench rollout`, with
    each engine that is installed."""
    if checks.is_tiny:
        checks.skip("engines/trees", "the 1.5B shape and vLLM are measured on GPUs alone")
        return
    with TemporaryDirectory() as folder:
        gpu_rollout.save("1.5B", Path(folder) / "model")
        found = rates(Path(folder), "embedded")
        [tree] = found.keys() - {SEQUENTIAL}
        gain = found[tree] / found[SEQUENTIAL]
        checks.add("engines/trees_over_sequential", round(gain, 3), "at least 1.3, embedded", gain >= 1.3)
        if find_spec("vllm") is None:
            checks.skip("engines/embedded_over_vllm", "vLLM is not installed: pip install 'treepo[vllm]'")
            return
        other = rates(Path(folder), "vllm")
    for name, least in ((SEQUENTIAL, 1.0), (tree, 1.3)):
        # Both against vLLM as it is used without treepo.
        ratio = found[name] / other[SEQUENTIAL]
        checks.add(f"engines/embedded_over_vllm/{name}", round(ratio, 3), f"at least {least}", ratio >= least)
    checks.add("engines/trajectories_per_s", {"embedded": found, "vllm": other}, "shown", passed=True)


def rates(folder: Path, kind: str) -> dict[str, float]:
    """Trajectories per second of each variant, measured in a process of its own."""
    options = gpu_rollout.options(prompt_len=2048, depth=7)
    options += [f"--engine.kind={kind}", "--bench.repeats=2", "--bench.plain_batches=[]", "--out", str(folder / kind)]
    subprocess.run([sys.executable, "-m", "treepo", "bench", "rollout", str(folder / "model"), *options], check=True)
    [workload] = read_rollout(folder / kind / ROLLOUT_NAME).workloads
    return {one.name: one.trajectories_per_s for one in workload.variants}
