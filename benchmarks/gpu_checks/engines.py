"""Which engine is faster on a GPU: the embedded one or vLLM, for trees and for sequential sampling?"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import gpu_rollout

from gpu_checks.checks import Checks
from treepo.report.bench_results import ROLLOUT_NAME, read_rollout


def engines(checks: Checks) -> None:
    """Trajectories per second of both engines over a 1.5B shape, by `treepo bench rollout`."""
    if checks.is_tiny:
        checks.skip("engines/trees", "vLLM and the 1.5B shape are compared on GPUs alone")
        return
    if find_spec("vllm") is None:
        checks.skip("engines/trees", "vLLM is not installed: pip install 'treepo[vllm]'")
        return
    found = {}
    with TemporaryDirectory() as folder:
        gpu_rollout.save("1.5B", Path(folder) / "model")
        for kind in ("embedded", "vllm"):
            found[kind] = rates(Path(folder), kind)
    for name in sorted(found["embedded"].keys() & found["vllm"].keys()):
        ours, theirs = found["embedded"][name], found["vllm"][name]
        wanted = f"shown; embedded {ours:.2f} trajectories/s, vLLM {theirs:.2f}: above 1 the embedded engine is faster"
        checks.add(f"engines/embedded_over_vllm/{name}", round(ours / theirs, 3), wanted, passed=True)


def rates(folder: Path, kind: str) -> dict[str, float]:
    """Trajectories per second of each variant, measured in a process of its own."""
    options = [*gpu_rollout.options(), f"--engine.kind={kind}", "--bench.repeats=2", "--out", str(folder / kind)]
    subprocess.run([sys.executable, "-m", "treepo", "bench", "rollout", str(folder / "model"), *options], check=True)
    [workload] = read_rollout(folder / kind / ROLLOUT_NAME).workloads
    return {one.name: one.trajectories_per_s for one in workload.variants}
