"""One training run from its settings to its folder."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from treepo.build import Run, build_run
from treepo.config import Config, to_toml
from treepo.learn.packing import TreeBatch
from treepo.learn.update import NonFiniteUpdateError
from treepo.report.metrics import MetricsLog
from treepo.report.terminal import Terminal


def prepare(config: Config, out: Path, terminal: Terminal) -> Run:
    """Build the parts of a run and make its folder with the resolved settings.

    Raises ValueError for settings that cannot work and for a folder that already holds something, before anything is
    written there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out: {str(out)!r} already holds a run or other files; give a new folder")
    with terminal.bar("making the base model") as report:
        run = build_run(config, terminal.say, report)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.toml").write_text(to_toml(config), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"out: cannot write to {str(out)!r}: {error}") from error
    return run


def train(run: Run, out: Path, terminal: Terminal) -> None:
    """Evaluate, train, evaluate again; metrics and model are kept in `out`.

    Raises FloatingPointError if loss or gradients stop being finite; the batch that did it is then kept in `out`.
    """
    num_steps = run.config.train.num_steps
    log = MetricsLog(out / "metrics.jsonl")
    before = run.evaluate()
    log.append(0, before)
    if before:
        terminal.say(f"held out before training: {before['eval/avg']:.1%} (greedy {before['eval/greedy']:.1%})")
    with terminal.bar("training") as report:
        for step in range(1, num_steps + 1):
            metrics = _step(run, step, out)
            log.append(step, metrics)
            terminal.step(step, metrics)
            report(step, num_steps, metrics["reward/mean"])
    run.policy.save(out / "model")
    terminal.summary(log.read(), out)


def _step(run: Run, step: int, out: Path) -> dict[str, float]:
    """One training step, with an evaluation where one is due."""
    try:
        metrics = run.trainer.step(step)
    except NonFiniteUpdateError as error:
        path = out / f"failed-step-{step:06d}.safetensors"
        save_file(_arrays(error.batch), path)
        raise FloatingPointError(f"step {step}: {error}; its batch is kept in {str(path)!r}") from error
    every = run.config.eval.every
    is_due = step == run.config.train.num_steps or (every > 0 and step % every == 0)
    return metrics | run.evaluate() if is_due else metrics


def _arrays(batch: TreeBatch) -> dict[str, np.ndarray]:
    return vars(batch.packed) | {"offsets": np.array(batch.offsets)}
