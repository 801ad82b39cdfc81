"""Resuming a run: checks its folder, builds its parts and gives them the state of its last checkpoint."""

import logging
import tomllib
from pathlib import Path
from typing import Any

from treepo.config.load import read_recipe, resolve, to_toml
from treepo.config.schema import Config, Settings
from treepo.distributed import Job
from treepo.errors import SettingError
from treepo.learn.checkpoint import Progress
from treepo.report.run_log import MetricsLog, cut_samples
from treepo.report.terminal import Terminal
from treepo.run.build import Run, build_run
from treepo.run.checkpointing import checkpoint_store
from treepo.run.provenance import check_initial_state
from treepo.utils.io import replace_text

logger = logging.getLogger(__name__)

MAY_CHANGE = (
    "checkpoint.every",
    "checkpoint.keep",
    "engine.max_cache_tokens",
    "engine.max_num_batched_tokens",
    "engine.max_num_seqs",
    "eval.every",
    "eval.keep_best",
    "model.device",
    "processes.shard_size",
    "processes.timeout_s",
    "servers.address",
    "servers.folder",
    "servers.max_retries",
    "servers.sync",
    "servers.timeout_s",
    "servers.urls",
    "tracking.offline",
    "tracking.project",
    "tracking.run_name",
    "tracking.sample_answers",
    "tracking.sample_problems",
    "tracking.trackers",
    "train.gradient_checkpointing",
    "train.max_tokens_per_micro_batch",
    "train.num_steps",
    "train.save_trees_every",
    "verifier_pool.num_workers",
    "vllm.gpu_memory_utilization",
)
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
    if refused := [f"{name} was {old!r}, now {new!r}" for name, old, new in changes if name not in MAY_CHANGE]:
        reason = "that would be another run (docs/runs.md: what may change)"
        raise SettingError("resume", f"{'; '.join(refused)}: {reason}")
    return config


def resume(config: Config, out: Path, terminal: Terminal, job: Job) -> tuple[Run, Progress | None]:
    """(the parts of the run in a folder, how far it has come): with the state of its newest undamaged checkpoint, or
    None if it has none and starts anew. Cuts its metrics after that step.

    config: see `continued_settings`. The first process must hold the folder's lock. Raises SettingError for a model or
    problems other than those that the run was started with.
    """
    with terminal.progress("making the base model") as progress:
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


def _restore(run: Run, out: Path) -> Progress | None:
    check_initial_state(run, out)
    store = checkpoint_store(run.config, out)
    step = run.processes.broadcast(store.newest() if run.processes.is_first else None)
    if run.processes.is_first:
        last = -1 if step is None else step
        MetricsLog(out / "metrics.jsonl").cut(last)
        cut_samples(out / "samples.jsonl", last)
    if step is None:
        logger.info("There is no checkpoint to resume from: the run starts anew.")
        return None
    progress = store.restore(step, run.train_state)
    run.trainer.engine.sleep()
    run.trainer.sync_weights()
    logger.info("Resumed after step %d.", step)
    return progress


def changed_settings(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """(name, old value, new value) of every setting that differs; None where it is not set."""
    tables = [_flat(config) for config in (old, new)]
    names = sorted(tables[0].keys() | tables[1].keys())
    pairs = [(name, *(table.get(name) for table in tables)) for name in names]
    return [(name, before, after) for name, before, after in pairs if before != after]


def _flat(config: Config) -> dict[str, Any]:
    tables = tomllib.loads(to_toml(config))
    return {f"{section}.{key}": value for section, table in tables.items() for key, value in table.items()}
