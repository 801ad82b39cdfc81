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
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch

import treepo
from treepo.config.load import read_recipe, resolve, to_toml
from treepo.config.paths import with_absolute_paths
from treepo.config.schema import Config, Settings
from treepo.data.datasets import DatasetTask
from treepo.errors import SettingError
from treepo.learn.checkpoint import CheckpointStore, Progress, step_folder
from treepo.report.page.payload import ENVIRONMENT_NAME
from treepo.report.run_log import MetricsLog, cut_samples, object_of, read_lines
from treepo.run.ahead import restore_ahead
from treepo.run.checkpointing import (
    CHECKPOINTS,
    FROZEN,
    INITIAL,
    INITIAL_STATE,
    NO_WEIGHTS,
    NOT_BEGUN,
    recorded_run,
    train_state_of,
    weights_checksums,
)
from treepo.run.outputs import restore_models
from treepo.utils.files import JSON_BYTES, read_plain
from treepo.utils.io import replace_bytes, replace_text, writing
from treepo.utils.text import pluralize

if TYPE_CHECKING:
    from treepo.run.build import Run

logger = logging.getLogger(__name__)

NUM_COMPARED = 1000
"""The first problems to train on, as many as are compared when a run is resumed."""

NUM_MADE = 32
"""The same for datasets without an end, some of which take a second to make a problem."""


def record_initial_state(run: "Run", out: Path) -> None:
    """Keep what the run starts with, for `check_initial_state`. Must come before its first step. Raises WriteError."""
    state = _initial_state(run)
    with run.processes.synced_errors():
        if run.processes.is_first:
            # Where what was recorded is lost, its checkpoints say which run it is.
            state["run"] = CheckpointStore(out / CHECKPOINTS, keep=1).found_run() or uuid4().hex
            with writing(out / INITIAL, "the checksums of what the run starts with"):
                replace_text(out / INITIAL, json.dumps(state, indent=1) + "\n")


def check_initial_state(run: "Run", out: Path) -> None:
    """Raise SettingError if the model or the problems that were loaded are not those that the run was started with.

    Where that is not known, since the file is damaged, a warning says so, and what was loaded is taken for it.
    """
    before = run.processes.broadcast(_read_initial_state(out / INITIAL) if run.processes.is_first else None)
    if before is None:
        record_initial_state(run, out)
        return
    now = _initial_state(run)
    for name, setting in (("weights", "model.path"), ("problems", "data.train")):
        if before.get(name) != now[name]:
            raise SettingError("resume", f"{setting}: the {name} are no longer those that the run was started with")


def _read_initial_state(path: Path) -> dict[str, str] | None:
    """None where there is none: the run ended before its first step, or the file is damaged."""
    if not path.exists():
        return None
    try:
        state = INITIAL_STATE.validate_json(read_plain(path, JSON_BYTES))
        if state.keys() >= {"weights", "problems"}:
            return state
        reason = "it lacks a checksum"
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "no JSON object of checksums"
    logger.warning(
        "%r is damaged (%s): whether model and problems are those that the run was started with cannot be checked",
        str(path),
        reason,
    )
    return None


def _initial_state(run: "Run") -> dict[str, str]:
    """Checksums of the initial weights, if they will be needed again, and of the first problems to train on and all
    held-out ones, which a changed tokenizer, template, file or order changes."""
    config = run.config
    problems = hashlib.blake2b(digest_size=16)
    has_initial = config.lora.is_given or config.penalties.needs_reference
    weights, frozen = weights_checksums(run.policy.model) if has_initial else (NO_WEIGHTS, NO_WEIGHTS)
    is_for_training = bool(config.data.train) or not config.data.is_given
    num_compared = NUM_MADE if isinstance(run.task, DatasetTask) and run.task.is_endless else NUM_COMPARED
    asked = run.task.training_problems(0, num_compared) if is_for_training else []
    for problem in [*asked, *run.task.eval_problems(config.eval.num_problems)]:
        problems.update(repr((problem.prompt_ids, problem.ground_truth)).encode())
    return {"weights": weights, FROZEN: frozen, "problems": problems.hexdigest()}


def record_environment(out: Path, command: str) -> None:
    """Append a line with versions and hardware to the folder of a run that starts or resumes.

    Lines that hold none are dropped, with a warning. command: what this process was started with; the home folder
    becomes `~`. Raises SettingError if the file cannot be read, WriteError if it cannot be written.
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
    path = out / ENVIRONMENT_NAME
    lines = read_lines(path)
    kept = [line for line in lines if object_of(line) is not None]
    if damaged := len(lines) - len(kept):
        logger.warning("%r is damaged: %d of its lines hold no environment and are dropped", str(path), damaged)
    with writing(path, "versions and hardware of this start"):
        replace_bytes(path, b"".join([*kept, json.dumps(environment).encode() + b"\n"]))


def _processor() -> str:
    """The name of the CPU's model, if the system knows it."""
    with suppress(OSError):
        if found := re.search(r"^model name[^:]*:(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M):
            return found[1].strip()
    return platform.processor() or platform.machine()


MAY_CHANGE = {
    "checkpoint": ("every", "keep", "save_model"),
    "engine": ("max_cache_tokens", "max_num_batched_tokens", "max_num_seqs", "num_scheduler_steps"),
    "eval": ("every", "keep_best", "patience"),
    "model": ("device",),
    "optim": ("offload",),
    "processes": ("shard_size", "timeout_s"),
    "servers": ("address", "folder", "max_retries", "sync", "timeout_s", "urls"),
    "tracking": (
        "entity",
        "group",
        "hub_model_id",
        "hub_private_repo",
        "offline",
        "project",
        "push_to_hub",
        "run_name",
        "sample_answers",
        "sample_problems",
        "tags",
        "trackers",
    ),
    "train": (
        "gradient_checkpointing",
        "max_hours",
        "max_tokens_per_micro_batch",
        "num_epochs",
        "num_steps",
        "save_trees_every",
    ),
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
    # Runs of earlier versions hold paths as they were given.
    config = with_absolute_paths(resolve(before, overrides))
    _refuse_changes(changed_settings(with_absolute_paths(resolve(before)), config))
    return config


def check_continues(out: Path, config: Config) -> None:
    """Raise SettingError unless the settings of a program are those of the run in a folder, up to what may change.

    Nothing that the folder names is imported.
    """
    if not (out / "config.toml").is_file():
        raise SettingError("output_dir", f"{str(out)[:100]!r} holds no run: there is no config.toml")
    before: dict[str, Any] = dict(read_recipe(out / "config.toml"))
    defaults = tomllib.loads(to_toml(Config()))
    now = tomllib.loads(to_toml(config))
    for section, table in defaults.items():
        # Settings that came later than the run have their defaults.
        if before.get(section, {}).get("use") == table.get("use"):
            before[section] = {**table, **before.get(section, {})}
    _refuse_changes(_changes(before, now))


def _refuse_changes(changes: list[tuple[str, Any, Any]]) -> None:
    allowed = {f"{section}.{key}" for section, keys in MAY_CHANGE.items() for key in keys}
    if refused := [f"{name} was {old!r}, now {new!r}" for name, old, new in changes if name not in allowed]:
        message = f"{'; '.join(refused)}: that would be another run (docs/runs.md: what may change)"
        raise SettingError("resume", message)


def _keep_settings(config: Config, path: Path) -> None:
    text = to_toml(config)
    if text != path.read_text(encoding="utf-8"):
        with writing(path, "the settings that were changed now"):
            replace_text(path, text)


def restore(run: "Run", out: Path) -> Progress:
    """Give the parts of a run the state of the newest undamaged checkpoint of its folder; NOT_BEGUN if it has none and
    starts anew. Cuts its metrics after that step.

    The first process must hold the folder's lock. Raises SettingError for a model or problems other than those that the
    run was started with.
    """
    progress = _restore_state(run, out)
    with run.processes.synced_errors():
        if run.processes.is_first:
            _keep_settings(run.config, out / "config.toml")
    return progress


def _restore_state(run: "Run", out: Path) -> Progress:
    check_initial_state(run, out)
    store = CheckpointStore(out / CHECKPOINTS, run.config.checkpoint.keep, run=recorded_run(out))
    step = None
    with run.processes.synced_errors():
        if run.processes.is_first:
            step = _find_checkpoint(store, MetricsLog(out / "metrics.jsonl"), run.config.train.num_steps)
            restore_models(out)
            last = -1 if step is None else step
            MetricsLog(out / "metrics.jsonl").cut(last)
            cut_samples(out / "samples.jsonl", last)
    step = run.processes.broadcast(step)
    if step is None:
        logger.info("There is no checkpoint to resume from: the run starts anew.")
        return NOT_BEGUN
    progress = store.restore(step, train_state_of(run.trainer))
    run.trainer.engine.sleep()
    run.trainer.sync_weights()
    restore_ahead(run.trainer, step_folder(store.folder, step), step)
    logger.info("Resumed after step %d.", step)
    return progress


def _find_checkpoint(store: CheckpointStore, log: MetricsLog, num_steps: int) -> int | None:
    """The step of the newest whole checkpoint whose metrics are there, too; None if there is no checkpoint.

    Raises SettingError if there are only later ones, or if the run has come further than it is to go.
    """
    last_logged = log.last_whole_step()
    later = [step for step in store.steps() if step > last_logged]
    step = store.newest(last_logged)
    if later:
        damage = f"{str(log.path)!r} holds no whole line for step {last_logged + 1}"
        if step is None:
            message = f"{damage}, and no checkpoint is from before it; a run that begins anew needs another folder"
            raise SettingError("resume", message)
        logger.warning("%s: later checkpoints (%s) are passed over", damage, ", ".join(map(str, later)))
    if step is not None and step > num_steps:
        raise SettingError("train.num_steps", f"the run has made {pluralize(step, 'step')} already", num_steps)
    return step


def changed_settings(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """(name, old value, new value) of every setting that differs; None where it is not set."""
    return _changes(tomllib.loads(to_toml(old)), tomllib.loads(to_toml(new)))


def _changes(old: Settings, new: Settings) -> list[tuple[str, Any, Any]]:
    before, after = (
        {f"{section}.{key}": value for section, table in tables.items() for key, value in table.items()}
        for tables in (old, new)
    )
    names = sorted(before.keys() | after.keys())
    return [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]
