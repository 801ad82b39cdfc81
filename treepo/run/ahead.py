"""The trees that have grown ahead (train.overlap), in checkpoints."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from treepo.data.problem import Outcome, Verdict
from treepo.engine.base import EngineCounters
from treepo.errors import SettingError
from treepo.grow.environment_calls import EnvironmentCounters
from treepo.learn.rollout import GrownTrees, StepCounters
from treepo.report.trees import KeptTree, read_trees, trees_as_bytes
from treepo.run.samples import grading_of
from treepo.utils.files import JSON_BYTES, read_plain
from treepo.utils.text import error_line
from treepo.verify.rewards import ScoredLeaves

if TYPE_CHECKING:
    from treepo.learn.trainer import Trainer

logger = logging.getLogger(__name__)

TREES, FACTS = "next_trees.parquet", "next_trees.json"
"""Files of a checkpoint: the trees of the step after it, and what was measured of them."""


def saved_ahead(trainer: "Trainer", step: int) -> dict[str, bytes]:
    """The trees of the step after this one, of all processes, once they have grown, as files by name for the first
    process; all have to call this. None where a process could not grow its trees, and where none grow."""
    grown = trainer.ahead.wait()
    if not all(trainer.processes.all_gather(grown is not None and trainer.ahead.step == step + 1)):
        return {}
    assert grown is not None
    counters = grown.counters.summed(trainer.processes)
    trees = trainer.processes.unshard(list(zip(grown.trees, grown.scored, strict=True)))
    if not trainer.processes.is_first:
        return {}
    problems = trainer.task.training_problems(step, trainer.prompts_per_step)
    kept = [
        KeptTree(tree, scored.rewards, grading=grading_of(problem, scored))
        for (tree, scored), problem in zip(trees, problems, strict=True)
    ]
    facts = {"counters": asdict(counters), "logged": [scored.logged for _, scored in trees]}
    return {TREES: trees_as_bytes(kept, lambda _: ""), FACTS: json.dumps(facts).encode()}


def restore_ahead(trainer: "Trainer", folder: Path, step: int) -> None:
    """Take over the trees of the step after this one from the checkpoint in a folder.

    A warning says so if it has none. Raises SettingError for what cannot be trees of that step.
    """
    if not trainer.overlap or (trainer.num_steps and step >= trainer.num_steps):
        return
    if not (folder / TREES).exists():
        if step > 0:
            logger.warning(
                "the checkpoint of step %d has no trees of the next step, which are grown anew, from its weights: from "
                "here on this is another run than one that had not stopped",
                step,
            )
        return
    try:
        facts = json.loads(read_plain(folder / FACTS, JSON_BYTES))
        kept, logged = read_trees(folder / TREES), facts["logged"]
        scored = [_scored(one, own) for one, own in zip(kept, logged, strict=True)]
        counters = _counters(**facts["counters"])
        if [one.tree.weights_version for one in kept] != [step - 1] * trainer.prompts_per_step:
            raise ValueError(f"they are not {trainer.prompts_per_step} trees of the weights of step {step - 1}")
    except (OSError, LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        message = f"{str(folder / TREES)!r} holds no trees of step {step + 1}: {error_line(error)}"
        raise SettingError("resume", message) from error
    own = trainer.processes.shard
    # Those of all processes were added up.
    counters = counters if trainer.processes.is_first else counters - counters
    trainer.ahead.put(step + 1, GrownTrees(own([one.tree for one in kept]), own(scored), counters))


def _scored(kept: KeptTree, logged: Mapping[str, Any]) -> ScoredLeaves:
    """Verdicts and rewards as they were before they were written."""
    grading, rewards = kept.grading, kept.rewards
    if grading is None or rewards is None:
        raise ValueError(f"the tree of {kept.tree.problem_id[:40]!r} was not graded")
    columns = zip(grading.correct.tolist(), grading.outcomes, grading.extracted_answers, strict=True)
    verdicts = [Verdict(correct, Outcome(outcome), answer) for correct, outcome, answer in columns]
    values = {name: float(value) for name, value in logged.items()}
    extra = {name: list(column) for name, column in grading.extra.items()}
    return ScoredLeaves(
        verdicts=verdicts,
        correct=grading.correct,
        components=dict(grading.parts),
        rewards=np.asarray(rewards, np.float64),
        logged=values,
        columns=extra,
    )


def _counters(engine: dict[str, Any], environments: dict[str, Any] | None) -> StepCounters:
    """Those that were saved."""
    of_engine = EngineCounters(**{name: int(value) for name, value in engine.items()})
    if environments is None:
        return StepCounters(of_engine)
    kinds = asdict(EnvironmentCounters())
    return StepCounters(
        of_engine, EnvironmentCounters(**{name: type(kinds[name])(value) for name, value in environments.items()})
    )
