"""Going on with a run: its folder is checked, its parts are built, and they get the state of its last checkpoint."""

import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from treepo.config.load import read_recipe, resolve, to_toml
from treepo.config.schema import Config, Settings
from treepo.distributed import Job
from treepo.learn.checkpoint import Progress
from treepo.report.run_log import MetricsLog, cut_samples
from treepo.report.terminal import Terminal
from treepo.run.build import Run, build_run
from treepo.run.checkpointing import checkpoint_store
from treepo.run.provenance import check_origin
from treepo.run.task import Notify
from treepo.utils.io import locked, replace_text

MAY_CHANGE = (
    *("tracking.trackers", "tracking.project", "tracking.run_name", "tracking.offline"),
    *("tracking.sample_problems", "tracking.sample_answers"),
    *(
        "train.num_steps",
        "train.save_trees_every",
        "eval.every",
        "eval.keep_best",
        "checkpoint.every",
        "checkpoint.keep",
    ),
    *("engine.max_num_seqs", "engine.max_num_batched_tokens", "engine.max_cache_tokens", "verifier_pool.num_workers"),
    *("model.device", "train.max_tokens_per_micro_batch", "train.gradient_checkpointing"),
    *("vllm.gpu_memory_utilization", "processes.shard_size", "processes.timeout_s"),
    *("servers.urls", "servers.sync", "servers.folder", "servers.address", "servers.timeout_s", "servers.max_retries"),
)
"""Settings with which a run may go on though it was begun with others."""


@contextmanager
def claimed(out: Path, notify: Notify) -> Iterator[None]:
    """Keep other processes from training in this folder for so long; a killed process keeps nobody.

    notify: told in a line if that cannot be had.
    Raises ValueError if another does already, or if the folder holds no run.
    """
    if not (out / "config.toml").is_file():
        raise ValueError(f"resume: {str(out)[:100]!r} holds no run: there is no config.toml")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(out / "lock", notify))
        except BlockingIOError as error:
            raise ValueError(f"resume: another process trains in {str(out)!r}") from error
        except OSError as error:
            raise ValueError(f"resume: cannot use {str(out)[:100]!r}: {error.strerror}") from error
        yield


def continued_settings(out: Path, overrides: Settings) -> Config:
    """The settings of the run in a folder, with those given now. Raises ValueError for one that may not change."""
    begun = read_recipe(out / "config.toml")
    config = resolve(begun, overrides)
    changes = changed_settings(resolve(begun), config)
    if refused := [f"{name} was {old!r}, now {new!r}" for name, old, new in changes if name not in MAY_CHANGE]:
        raise ValueError(f"resume: {'; '.join(refused)}: that would be another run (docs/runs.md: what may change)")
    return config


def resume(config: Config, out: Path, terminal: Terminal, job: Job) -> tuple[Run, Progress | None]:
    """(the parts of the run in a folder, where it has come to): with the state of its newest checkpoint that is whole,
    or None if it has none and begins anew. Its metrics end with that step.

    config: see `continued_settings`. The folder must be claimed by the first process. Raises ValueError for a model or
    problems that are not those it was begun with.
    """
    with terminal.progress("making the base model") as report:
        run = build_run(config, terminal.say, report, job)
    try:
        progress = _restore(run, out, terminal)
    except BaseException:
        run.close()
        raise
    text = to_toml(config)
    if job.processes.is_first and text != (out / "config.toml").read_text(encoding="utf-8"):
        replace_text(out / "config.toml", text)
    return run, progress


def _restore(run: Run, out: Path, terminal: Terminal) -> Progress | None:
    check_origin(run, out)
    store = checkpoint_store(run.config, out)
    step = run.processes.broadcast(store.newest() if run.processes.is_first else None)
    if run.processes.is_first:
        last = -1 if step is None else step
        MetricsLog(out / "metrics.jsonl").cut(last)
        cut_samples(out / "samples.jsonl", last)
    if step is None:
        terminal.say("There is no checkpoint to go on from: the run begins anew.")
        return None
    progress = store.restore(step, run.train_state)
    run.trainer.engine.sleep()
    run.trainer.sync_weights()
    terminal.say(f"Goes on after step {step}.")
    return progress


def changed_settings(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """(name, old value, new value) of every setting that differs; None for one that is not there."""
    tables = [_flat(config) for config in (old, new)]
    names = sorted(tables[0].keys() | tables[1].keys())
    pairs = [(name, *(table.get(name) for table in tables)) for name in names]
    return [(name, before, after) for name, before, after in pairs if before != after]


def _flat(config: Config) -> dict[str, Any]:
    tables = tomllib.loads(to_toml(config))
    return {f"{section}.{key}": value for section, table in tables.items() for key, value in table.items()}
