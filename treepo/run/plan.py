"""The shape that pays for a model and its problems: from a few trees, or from those that a run has kept."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import tomli_w

from treepo.config.schema import Config
from treepo.errors import SettingError
from treepo.grow import Planned, TreeShape
from treepo.learn.advantages import rewarded_part
from treepo.plan.choice import Plan, choose_shape
from treepo.plan.components import Moments, moments_of
from treepo.plan.timing import Stopwatch, staged
from treepo.report.terminal import Terminal
from treepo.report.trees import read_trees
from treepo.run.parts import build_policy, close_parts, engine_for, reward_of
from treepo.run.sampler import growth_rules
from treepo.run.task import build_task, check_trainable
from treepo.utils.numeric import derive_seed
from treepo.verify.rewards import score_trees, verify_trees

NUM_FILES = 4
"""Files of kept trees, from the last, that a plan of a run looks at."""

MAX_REWARD = 1e100
"""Squares of larger ones leave the numbers that there are."""


@dataclass(frozen=True, eq=False)
class Seconds:
    """Measured seconds per decoded token: of trees that fork at random levels, of stars, of trees of the plan."""

    explored: float
    star: float
    planned: float


@dataclass(frozen=True, eq=False)
class ShapeReport:
    """A plan, the shape it is for, how many trees it follows from, and the seconds that were measured, if any were."""

    plan: Plan
    shape: TreeShape
    num_trees: int
    seconds: Seconds | None = None

    def settings(self) -> dict[str, dict[str, object]]:
        """The sections of a recipe that grow trees of this shape; what is not given is left out."""
        given = {f.name: getattr(self.shape, f.name) for f in fields(TreeShape) if f.init}
        first, paths = self.plan.paths[0], list(self.plan.paths)
        while len(paths) > 1 and paths[-1] == paths[-2]:
            paths.pop()
        return {
            "tree": {name: value for name, value in given.items() if value is not None},
            "initial_fork": {"low": first, "high": first},
            "branching": {"use": "StagedBranching", "paths": paths},
        }

    def text(self) -> str:
        """A recipe with these sections, and comments with what is known of each stage."""
        return "\n".join(f"# {line}".rstrip() for line in self._lines()) + "\n\n" + tomli_w.dumps(self.settings())

    def _lines(self) -> list[str]:
        known, plan, seconds = self.plan.components, self.plan, self.seconds
        per_token = None if seconds is None else seconds.explored
        lines = [f"From {self.num_trees} trees. Per stage (segment) of a response:", ""]
        lines.append("stage  reached  tokens  seconds  variance   paths")
        for k in range(known.depth):
            cost = "-" if per_token is None else f"{known.tokens[k] * per_token:.4f}"
            share = known.variances[k] * known.reached[k] / known.total if known.total > 0 else 0.0
            about = f"{k + 1:5d}  {known.reached[k]:7.1%}  {known.tokens[k]:6.1f}  {cost:>7}"
            lines.append(f"{about}  {share:8.1%}  {plan.paths[k]:6d}")
        lines += ["", f"variance of the reward given the problem: {known.total:.4f}"]
        if known.total <= 0:
            return [*lines, "no two answers to a problem differ in reward: nothing can be told, so a star"]
        if plan.is_star:
            return [*lines, "no tree is believed to have less noise per token than a star of independent samples"]
        low, high = plan.interval()
        lines.append(f"predicted: a token of this shape teaches as much as {plan.gain:.2f} tokens of a star")
        lines.append(
            f"(bootstrap over problems: {low:.2f} to {high:.2f} in 90% of samples, above 1 in {plan.believed:.0%})"
        )
        if seconds is not None:
            star, planned, gain = 1e3 * seconds.star, 1e3 * seconds.planned, plan.gain * seconds.star / seconds.planned
            lines.append(f"measured: {star:.3f} ms per token of stars, {planned:.3f} ms per token of this shape,")
            lines.append(f"so that a second of growing it teaches as much as {gain:.2f} s of growing stars")
        return lines


def plan_for_model(config: Config, num_problems: int, terminal: Terminal) -> ShapeReport:
    """Grow a tree for each of a few training problems, verify it, and choose a shape; then time stars and that shape.

    Raises SettingError for settings that cannot work, FloatingPointError if logits are not finite.
    """
    check_trainable(config)
    with terminal.stage("loading the model"), terminal.progress("making the base model") as progress:
        policy = build_policy(config, progress)
    engine, task = engine_for(config, policy), None
    try:
        task = build_task(config, policy, engine.max_model_len)
        problems = task.training_problems(0, num_problems)
        rules, sampling = growth_rules(config, policy.decode, task.answers), config.engine.sampling_params
        explore = replace(rules, branching=Planned())
        stopwatch = Stopwatch(engine, sampling, derive_seed(config.train.seed, "plan"))
        # The first trees pay for what is compiled and allocated once.
        stopwatch.grow(problems[:1], explore)
        with terminal.stage(f"growing {len(problems)} trees"):
            trees, explored = stopwatch.grow(problems, explore)
        verified = verify_trees(task, problems, trees, policy.decode)
        scored = score_trees(reward_of(config), verified, config.tree.max_response_tokens)
        parts = [rewarded_part(tree, own.rewards) for tree, own in zip(trees, scored, strict=True)]
        moments = [moments_of(tree, _checked(own), config.tree) for tree, own in parts if len(own)]
        if not moments:
            raise SettingError("reward", "no answer has a reward")
        plan = choose_shape(moments, config.credit, config.tree.width, seed=config.train.seed)
        with terminal.stage("timing stars and the shape"):
            _, star = stopwatch.grow(problems, staged(rules, (config.tree.width,)))
            planned = star if plan.is_star else stopwatch.grow(problems, staged(rules, plan.paths))[1]
    finally:
        close_parts(engine, task)
    return ShapeReport(plan, config.tree, len(moments), Seconds(explored, star, planned))


def _checked(rewards: np.ndarray) -> np.ndarray:
    """The rewards of a tree; raises SettingError for those of which no variance can be computed."""
    if np.abs(rewards).max() > MAX_REWARD:
        message = f"a plan needs rewards of at most {MAX_REWARD:g}, whatever their sign"
        raise SettingError("reward", message, float(np.abs(rewards).max()))
    return rewards


def plan_for_run(config: Config, folder: Path) -> ShapeReport:
    """Choose a shape by the trees of a run's last files in trees/. config: the run's.

    Raises SettingError if there is no tree with rewards.
    """
    moments: list[Moments] = []
    for path in sorted((folder / "trees").glob("step-*.parquet"))[-NUM_FILES:]:
        try:
            kept = read_trees(path)
        except (OSError, ValueError) as error:
            raise SettingError("MODEL", f"cannot read the trees of {str(folder)!r}: {error}") from error
        known = [(one.tree, one.rewards) for one in kept if one.rewards is not None]
        judged = [rewarded_part(tree, own) for tree, own in known if not np.isnan(own).all()]
        moments += [moments_of(tree, _checked(own), config.tree) for tree, own in judged]
    if not moments:
        raise SettingError("MODEL", f"{str(folder)!r} has no trees with rewards in trees/ (train.save_trees_every)")
    return ShapeReport(
        choose_shape(moments, config.credit, config.tree.width, seed=config.train.seed), config.tree, len(moments)
    )
