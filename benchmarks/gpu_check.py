"""What only a GPU can show, in one command of under eight minutes: is it right, and how fast is it?

    python benchmarks/gpu_check.py                        # all sections; results/gpu-check.json
    python benchmarks/gpu_check.py --only kernel decode   # some of them
    python benchmarks/gpu_check.py --only engines         # rollouts, also with vLLM: no time is left after the others
    python benchmarks/gpu_check.py --tiny                 # tiny sizes on the CPU: does this script run?

A line per check: PASS or FAIL, figure, what is asked for. A section that fails costs the others nothing; one for which
no time is left is skipped and named, and so is what --tiny cannot show. The exit code is 1 if a check failed. The
sections are in gpu_checks/.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from gpu_checks import attention, decoding, engines, processes, runs, updating
from gpu_checks.checks import Checks

RESULTS = Path(__file__).parent / "results" / "gpu-check.json"

SECTIONS: dict[str, tuple[float, Callable[[Checks], None]]] = {
    "kernel": (60, attention.kernel),
    "sampling": (15, decoding.sampling),
    "trees": (20, decoding.trees),
    "decode": (100, decoding.decode),
    "update": (100, updating.update),
    "memory": (25, decoding.memory),
    "nccl": (20, processes.nccl),
    "lora": (30, runs.lora),
    "resume": (45, runs.resume),
    "learns": (60, runs.learns),
    "engines": (240, engines.engines),
}
"""By name: about how many seconds a section takes on one H200, by estimate, and what it does."""


def main(only: list[str], tiny: bool, out: Path | None, seconds: float) -> int:
    """Run the sections and keep what was found."""
    if not (tiny or torch.cuda.is_available()):
        print("no GPU here: nothing is checked; --tiny shows on the CPU whether this script runs")
        return 0
    checks = Checks(torch.device("cpu" if tiny else "cuda"), seconds)
    for name in only or SECTIONS:
        checks.run(name, 0 if tiny else SECTIONS[name][0], SECTIONS[name][1])
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
    parser.add_argument("--seconds", type=float, default=480, help="sections that would end later are skipped")
    options = parser.parse_args()
    sys.exit(main(options.only, options.tiny, options.out, options.seconds))
