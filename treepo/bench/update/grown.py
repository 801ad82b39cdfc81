"""Trees of the built-in task, grown and credited as in the first step of `treepo train`."""

import dataclasses
from collections.abc import Iterator

from treepo.bench.update.settings import TaskSettings
from treepo.bench.update.workload import Workload
from treepo.build import build_reference, build_scorer, build_task, build_trainer, build_updater, engine_for
from treepo.config import resolve
from treepo.learn.crediting import credit
from treepo.model.policy import Policy
from treepo.settings import BUILT_IN_TASK, ModelSettings


def grown_workloads(settings: TaskSettings, model: ModelSettings, policy: Policy, seed: int) -> Iterator[Workload]:
    """One per width. Raises ValueError if the policy cannot be asked, or if no tree carries a signal."""
    given = {"model": dataclasses.asdict(model), "train": {"seed": seed}}
    for width in settings.widths:
        config = resolve(BUILT_IN_TASK, given, {"tree": {"width": width}})
        engine = engine_for(config, policy)
        task = build_task(config, policy, engine.longest, lambda _: None)
        updater = build_updater(config, build_scorer(config, policy), build_reference(config, policy))
        trainer = build_trainer(config, policy, task, engine, updater)
        problems = task.training_problems(0, settings.problems)
        trees = trainer.grow(problems, step=1)
        rewards = [verified.rewards for verified in trainer.verify(problems, trees)]
        credited = zip(trees, credit(trees, rewards, config.credit), strict=True)
        kept = [(tree, advantages) for tree, advantages in credited if advantages is not None]
        if not kept:
            raise ValueError(f"task: none of {len(trees)} trees of width {width} carries a signal: their rewards agree")
        yield Workload([tree for tree, _ in kept], [advantages for _, advantages in kept])
