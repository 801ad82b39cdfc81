"""Resuming a run: checks its folder, builds its parts and gives them the state of its last checkpoint."""

import hashlib
import json
import logging
import os
import platform
import re
import tomllib
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

import treepo
from treepo.config.load import read_recipe, resolve, to_toml
from treepo.config.schema import Config, Settings
from treepo.distributed import Job
from treepo.errors import SettingError
from treepo.learn.checkpoint import CheckpointStore, Progress
from treepo.model.fsdp import plain_weights, unsharded
from treepo.report.page.payload import ENVIRONMENT_NAME
from treepo.report.run_log import MetricsLog, cut_samples
from treepo.report.terminal import Terminal
from treepo.run.build import Run, build_run
from treepo.run.checkpointing import CHECKPOINTS, INITIAL, INITIAL_STATE, NOT_BEGUN, recorded_run
from treepo.utils.files import JSON_BYTES, open_plain, read_plain
from treepo.utils.io import replace_text

logger = logging.getLogger(__name__)

NUM_COMPARED = 1000
"""The first problems to train on, as many as are compared when a run is resumed."""


def record_initial_state(run: Run, out: Path) -> None:
    """Keep what the run starts with, for `check_initial_state`. Must come before its first step."""
    state = _initial_state(run)
    if run.processes.is_first:
        # Where what was recorded is lost, its checkpoints say which run it is.
        state["run"] = CheckpointStore(out / CHECKPOINTS, keep=1).found_run() or uuid4().hex
        replace_text(out / INITIAL, json.dumps(state, indent=1) + "\n")


def check_initial_state(run: Run, out: Path) -> None:
    """Raise SettingError if the model or the problems that were loaded are not those that the run was started with."""
    path = out / INITIAL
    if not run.processes.broadcast(path.exists()):
        # It ended before its first step.
        record_initial_state(run, out)
        return
    try:
        before = INITIAL_STATE.validate_json(read_plain(path, JSON_BYTES))
    except (OSError, ValueError) as error:
        raise SettingError("resume", f"{str(path)!r} cannot be read: {error}") from error
    now = _initial_state(run)
    for name, setting in (("weights", "model.path"), ("problems", "data.train")):
        if before.get(name) != now[name]:
            raise SettingError("resume", f"{setting}: the {name} are no longer those that the run was started with")


def _initial_state(run: Run) -> dict[str, str]:
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
    """Append a line with versions and hardware to the folder of a run that starts or resumes.

    command: what this process was started with; the home folder becomes `~`.
    """
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    environment = {
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
    with open_plain(out / ENVIRONMENT_NAME, "a", encoding="utf-8") as file:
        file.write(json.dumps(environment) + "\n")


def _processor() -> str:
    """The name of the CPU's model, if the system knows it."""
    with suppress(OSError):
        if found := re.search(r"^model name[^:]*:(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M):
            return found[1].strip()
    return platform.processor() or platform.machine()


MAY_CHANGE = {
    "checkpoint": ("every", "keep"),
    "engine": ("max_cache_tokens", "max_num_batched_tokens", "max_num_seqs"),
    "eval": ("every", "keep_best"),
    "model": ("device",),
    "processes": ("shard_size", "timeout_s"),
    "servers": ("address", "folder", "max_retries", "sync", "timeout_s", "urls"),
    "tracking": ("offline", "project", "run_name", "sample_answers", "sample_problems", "trackers"),
    "train": ("gradient_checkpointing", "max_tokens_per_micro_batch", "num_steps", "save_trees_every"),
    "verifier_pool": ("num_workers",),
    "vllm": ("gpu_memory_utilization",),
}
"""Settings that a resumed run may have otherwise than it was started with."""


def continued_settings(out: Path, overrides: Settings) -> Config:
    """The settings of the run in a folder, with those given now.

    Raises SettingError for one that may not change and for a folder without a run.
    """
    if not (out / "config.toml").is_file():
        raise SettingError("resume", f"{str(out)[:100]!r} holds no run: there is no config.toml")
    before = read_recipe(out / "config.toml")
    config = resolve(before, overrides)
    changes = changed_settings(resolve(before), config)
    allowed = {f"{section}.{key}" for section, keys in MAY_CHANGE.items() for key in keys}
    if refused := [f"{name} was {old!r}, now {new!r}" for name, old, new in changes if name not in allowed]:
        message = f"{'; '.join(refused)}: that would be another run (docs/runs.md: what may change)"
        raise SettingError("resume", message)
    return config


def resume(config: Config, out: Path, terminal: Terminal, job: Job) -> tuple[Run, Progress]:
    """(the parts of the run in a folder, how far it has come): with the state of its newest undamaged checkpoint, or
    NOT_BEGUN if it has none and starts anew. Cuts its metrics after that step.

    config: see `continued_settings`. The first process must hold the folder's lock. Raises SettingError for a model or
    problems other than those that the run was started with.
    """
    with terminal.stage("loading the model"), terminal.progress("making the base model") as progress:
        run = build_run(config, progress, job)
    try:
        restored = _restore(run, out)
        text = to_toml(config)
        if job.processes.is_first and text != (out / "config.toml").read_text(encoding="utf-8"):
            replace_text(out / "config.toml", text)
    except BaseException:
        run.close()
        raise
    return run, restored


def _restore(run: Run, out: Path) -> Progress:
    check_initial_state(run, out)
    store = CheckpointStore(out / CHECKPOINTS, run.config.checkpoint.keep, run=recorded_run(out))
    step = run.processes.broadcast(store.newest() if run.processes.is_first else None)
    if run.processes.is_first:
        last = -1 if step is None else step
        MetricsLog(out / "metrics.jsonl").cut(last)
        cut_samples(out / "samples.jsonl", last)
    if step is None:
        logger.info("There is no checkpoint to resume from: the run starts anew.")
        return NOT_BEGUN
    progress = store.restore(step, run.train_state)
    run.trainer.engine.sleep()
    run.trainer.sync_weights()
    logger.info("Resumed after step %d.", step)
    return progress


def changed_settings(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """(name, old value, new value) of every setting that differs; None where it is not set."""
    before, after = (
        {f"{section}.{key}": value for section, table in tables.items() for key, value in table.items()}
        for tables in (tomllib.loads(to_toml(config)) for config in (old, new))
    )
    names = sorted(before.keys() | after.keys())
    return [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]
