"""What a run started with, and what it runs on: weights, problems, versions, hardware."""

import hashlib
import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import TypeAdapter

import treepo
from treepo.errors import SettingError
from treepo.model.fsdp import plain_weights, unsharded
from treepo.report.page.folder import ENVIRONMENT_NAME
from treepo.utils.io import replace_text

if TYPE_CHECKING:
    from treepo.run.build import Run

NAME = "initial.json"

NUM_COMPARED = 1000
"""The first problems to train on, as many as are compared when a run is resumed."""


def record_initial_state(run: "Run", out: Path) -> None:
    """Keep what the run starts with, for `check_initial_state`. Must come before its first step."""
    state = _initial_state(run)
    if run.processes.is_first:
        replace_text(out / NAME, json.dumps(state, indent=1) + "\n")


def check_initial_state(run: "Run", out: Path) -> None:
    """Raise SettingError if the model or the problems that were loaded are not those that the run was started with."""
    path = out / NAME
    if not run.processes.broadcast(path.exists()):
        # It ended before its first step.
        record_initial_state(run, out)
        return
    try:
        before = TypeAdapter(dict[str, str]).validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingError("resume", f"{str(path)!r} cannot be read: {error}") from error
    now = _initial_state(run)
    for name, setting in (("weights", "model.path"), ("problems", "data.train")):
        if before.get(name) != now[name]:
            raise SettingError("resume", f"{setting}: the {name} are no longer those that the run was started with")


def _initial_state(run: "Run") -> dict[str, str]:
    """Checksums of the initial weights, if they will be needed again, and of the first problems to train on and all
    held-out ones, which a changed tokenizer, template, file or order changes."""
    config = run.config
    weights, problems = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    if config.lora.rank or config.penalties.kl_coef:
        with unsharded(run.policy.model):
            for name, tensor in sorted(plain_weights(run.policy.model).items()):
                weights.update(name.encode())
                # A copy: weights that were gathered have to be freed, which numpy's view of them would prevent.
                copy = tensor.detach().to("cpu", copy=True)
                weights.update(copy.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    is_for_training = bool(config.data.train) or not config.data.is_given
    asked = run.task.training_problems(0, NUM_COMPARED) if is_for_training else []
    for problem in [*asked, *run.task.eval_problems(config.eval.num_problems)]:
        problems.update(repr((problem.prompt_ids, problem.ground_truth)).encode())
    return {"weights": weights.hexdigest(), "problems": problems.hexdigest()}


def record_environment(out: Path, command: str) -> None:
    """Append one line to the folder of a run that starts or resumes."""
    with (out / ENVIRONMENT_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(environment(command)) + "\n")


def environment(command: str) -> dict[str, str]:
    """Versions and hardware of this process. command: what it was started with; the home folder becomes `~`."""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command.replace(str(Path.home()), "~"),
        "treepo": treepo.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "numpy")},
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "processes": os.environ.get("WORLD_SIZE", "1"),
        **({"gpus": ", ".join(names)} if names else {}),
    }


def _processor() -> str:
    """The name of the CPU's model, if the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
