"""A model out of a checkpoint of a run: what `treepo export` writes, and `treepo eval RUN` asks."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from treepo.config.load import resolve
from treepo.config.schema import Config
from treepo.errors import SettingError
from treepo.learn.checkpoint import CheckpointStore
from treepo.model.lora import has_adapter, merged
from treepo.model.policy import Policy
from treepo.model.saving import save_model
from treepo.report.terminal import Terminal
from treepo.run.checkpointing import CHECKPOINTS, FROZEN, initial_state, recorded_run, weights_checksums
from treepo.run.outputs import MODEL
from treepo.run.parts import build_policy
from treepo.run.run_point import BEST, RUN, RunPoint
from treepo.utils.io import check_unused, preparing, remove, writing

logger = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")


def export_checkpoint(
    point: RunPoint,
    out: Path,
    terminal: Terminal,
    *,
    dtype: str = "",
    merge: bool = False,
    trust_run_code: bool = False,
) -> None:
    """Write the model of a checkpoint as transformers loads it or, where adapters were trained, the adapter.

    dtype: of the weights; if not given, that of the base model, and of an adapter that of training. merge: write the
    whole model with the adapter added. The folder is there as a whole or not at all. Raises SettingError, or WriteError
    if it cannot be written.
    """
    check_unused(out, "DIR")
    policy, step = load_checkpoint(point, terminal, trust_run_code)
    is_adapter = has_adapter(policy.model)
    if merge and not is_adapter:
        raise SettingError("--merge", "the run has no adapter: all weights were trained")
    model = merged(policy.model) if merge else policy.model
    if wanted := dtype or ("" if is_adapter and not merge else _base_dtype(policy)):
        nn.Module.to(model, dtype=getattr(torch, wanted))
    with preparing(out.parent, "DIR"):
        out.parent.mkdir(parents=True, exist_ok=True)
    with writing(out, "the model", "DIR"):
        if has_adapter(model):
            save_model(model, out)
        else:
            save_model(model, out, policy.tokenizer, policy.tokenizer_files)
    what = "The adapter" if has_adapter(model) else "The model"
    logger.info("%s of step %d, %s, is in %s.", what, step, str(model.dtype).removeprefix("torch."), out)


@contextmanager
def model_folder(point: RunPoint, beside: Path, terminal: Terminal, trust_run_code: bool) -> Iterator[str]:
    """A folder with the model of a run: its model/ or, where there is none or a step is named, one made for the time
    being out of a checkpoint, with adapters merged, in the type of training.

    beside: a path for results of our own, next to which it is made. Raises SettingError, or WriteError if there is no
    room.
    """
    final = point.folder / MODEL
    if not point.step and (final / "config.json").is_file():
        yield str(final)
        return
    folder = beside.with_name(f"{beside.name}.{MODEL}")
    try:
        policy, _ = load_checkpoint(point, terminal, trust_run_code)
        with writing(folder, f"the model of {CHECKPOINTS} in {str(point.folder)!r}"):
            remove(folder)
            policy.save(folder)
        # It is loaded again, as the evaluation needs it.
        del policy
        yield str(folder)
    finally:
        remove(folder)


def load_checkpoint(point: RunPoint, terminal: Terminal, trust_run_code: bool = False) -> tuple[Policy, int]:
    """(the policy at a checkpoint, on the CPU and in the type it was trained in; the step).

    trust_run_code: run Python code that comes with the base model, if the run did. Raises SettingError if there is no
    such checkpoint or it is damaged, and for a base model other than the run's.
    """
    config = _model_settings(point, trust_run_code)
    store = CheckpointStore(point.folder / CHECKPOINTS, keep=1, run=recorded_run(point.folder))
    try:
        step = _find(store, point)
        with terminal.stage("loading the model"), terminal.progress("making the base model") as progress:
            policy = build_policy(config, progress, device="cpu")
        _check_base(policy, point.folder)
        store.restore_weights(step, policy.model)
    except SettingError as error:
        raise (SettingError(RUN, error.message, error.value) if error.path == "resume" else error) from error
    return policy, step


def _model_settings(point: RunPoint, trust_run_code: bool) -> Config:
    """The run's settings as far as its model is concerned; the others may name code of its own."""
    settings = point.settings()
    train = settings.get("train", {})
    kept: dict[str, Any] = {name: settings[name] for name in ("model", "lora") if name in settings}
    if isinstance(train, Mapping) and "seed" in train:
        kept["train"] = {"seed": train["seed"]}
    config = resolve(kept)
    if config.model.trust_remote_code and not trust_run_code:
        message = "runs Python code that comes with the model; if you trust it, give --trust-run-code"
        raise SettingError("model.trust_remote_code", message)
    return config


def _find(store: CheckpointStore, point: RunPoint) -> int:
    """The step of the checkpoint that is meant, which is whole."""
    steps = store.steps()
    if not steps:
        raise SettingError(RUN, f"there is no checkpoint in {str(store.folder)!r}")
    newest = store.newest(int(point.step) if point.step.isdecimal() else None)
    if newest is not None and point.step == BEST:
        wanted = store.progress(newest).best_step
        if wanted < 0:
            raise SettingError(RUN, "no step is the best: there was no evaluation")
        newest = store.newest(wanted)
    else:
        wanted = int(point.step) if point.step else newest
    if newest is None or newest != wanted:
        there = ", ".join(map(str, steps))
        missing = f"no whole checkpoint of step {wanted}" if wanted is not None else "no checkpoint is whole"
        raise SettingError(RUN, f"{missing} in {str(store.folder)!r}; there are those of {there}")
    return newest


def _check_base(policy: Policy, folder: Path) -> None:
    """Raise SettingError if weights that the checkpoint does not hold are not those that the run was started with."""
    recorded = initial_state(folder).get(FROZEN, "")
    if recorded and has_adapter(policy.model) and weights_checksums(policy.model)[1] != recorded:
        raise SettingError("model.path", "the weights are no longer those that the run was started with")


def _base_dtype(policy: Policy) -> str:
    """The type that the base model's own config names; empty if it names none of DTYPES."""
    config = PreTrainedConfig.get_config_dict(str(policy.model.config.name_or_path))[0]
    name = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    return name if name in DTYPES else ""
