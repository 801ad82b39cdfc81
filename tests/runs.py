"""Real runs of `treepo train` in processes of their own, which can be killed, and what they leave."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from treepo.cli.main import main
from treepo.data.problem import Outcome, Verdict
from treepo.evaluate.store import AnswerStore
from treepo.verify.task import VerifiedTask

START_METHOD = "forkserver"
CONTEXT = get_context(START_METHOD)
# Children are forked from a process that has imported and compiled everything and has run nothing.
CONTEXT.set_forkserver_preload(
    ["treepo.run.train", "treepo.run.resume", "torch.distributed.fsdp", "tests.runs", "tests.compiled"]
)

PROBLEMS = {"train": range(10), "eval": range(20, 23)}
"""What stands in the sets, each its own."""


def judge_length(task: object, asked: Sequence[tuple[Any, str]]) -> list[Verdict]:
    """Right are answers of even length: so that a model that knows nothing has something to learn."""
    return [Verdict(float(len(response) % 2 == 0), Outcome.GRADED, None) for _, response in asked]


def write_sets(folder: Path) -> list[str]:
    """Ten problems, so that a run of four a step passes the border of an epoch in its third; and their options."""
    options = []
    for name, numbers in PROBLEMS.items():
        lines = [json.dumps({"prompt": f"{20 + i}a+3b-2c:", "answer": str(21 + i)}) + "\n" for i in numbers]
        (folder / f"{name}.jsonl").write_text("".join(lines))
        options += [f"--data.{name}", str(folder / f"{name}.jsonl")]
    return [*options, "--verifier.use", "ExactVerifier"]


def command(args: list[str], setup: Callable[[], None] | None, log: str) -> None:
    """What a child does: one command, its output in a file."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    VerifiedTask.verify = judge_length  # pyright: ignore[reportAttributeAccessIssue]
    if setup is not None:
        setup()
    sys.exit(main(args))


def start(args: list[str], log: Path, setup: Callable[[], None] | None = None) -> BaseProcess:
    """A command in a process of its own. setup: called there first; log: where its output goes, with .out and .err."""
    process = CONTEXT.Process(target=command, args=(args, setup, str(log)))
    process.start()
    return process


def finish(args: list[str], log: Path, setup: Callable[[], None] | None = None) -> int | None:
    """The exit code of a command, negative for a signal."""
    process = start(args, log, setup)
    process.join(120)
    return process.exitcode


def die(*args: object, **kwargs: object) -> None:
    """As if power failed."""
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def interrupted_evaluation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ctrl-C comes before the second part of the answers is kept."""
    append, num_parts = AnswerStore.append, 0

    def interrupted(*given: Any) -> None:
        nonlocal num_parts
        num_parts += 1
        if num_parts == 2:
            raise KeyboardInterrupt
        append(*given)

    with monkeypatch.context() as patch:
        patch.setattr(AnswerStore, "append", interrupted)
        yield


def untimed_metrics(out: Path) -> list[dict[str, float]]:
    """The metrics of a run but for times."""

    def is_untimed(name: str) -> bool:
        return not (name.startswith(("time/", "memory/")) or name.endswith("_s"))

    read = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in m.items() if is_untimed(name)} for m in read]


def last_state(out: Path) -> dict[str, Any]:
    """Weights, moments, schedule and random generators of a run's last checkpoint."""
    folder = sorted((out / "checkpoints").glob("step-??????"))[-1]
    tensors = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
    bits = {name: tensor.numpy().tobytes() for part in tensors for name, tensor in part.items()}
    return {"step": folder.name, "tensors": bits, "state": json.loads((folder / "state.json").read_text())}


def assert_same_run(out: Path, other: Path, ignored: str = "time/") -> None:
    """Bit by bit, but for times. ignored: how names of metrics begin that may differ as well."""
    one, two = (
        [{name: value for name, value in m.items() if not name.startswith(ignored)} for m in untimed_metrics(run)]
        for run in (out, other)
    )
    assert one == two
    assert last_state(out) == last_state(other)
    for path in sorted(out.glob("model/*.safetensors")) + sorted(out.glob("trees/*")):
        assert path.read_bytes() == (other / path.relative_to(out)).read_bytes(), path
