"""An estimator of your own: from the rewards of a tree's leaves to their advantages, in numpy.

python examples/own_estimator.py [MODEL]    # the built-in task, in seconds; its own model unless another is named
"""

import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

import treepo


@dataclass(frozen=True)
class BranchMedian:
    """A_i = R_i - (share median_b + (1 - share) median_t): medians of its branch b and of the whole tree t."""

    per_node: ClassVar[bool] = False  # one value per leaf; see docs/credit.md for values of nodes
    whiten: bool = True
    share: float = 0.5

    def __call__(self, tree: treepo.Tree, rewards: np.ndarray) -> np.ndarray:
        branches = np.array([tree.path(leaf)[1] for leaf in tree.leaves()])  # the child of the prompt above each leaf
        own = np.array([np.median(rewards[branches == branch]) for branch in branches])
        return rewards - self.share * own - (1 - self.share) * np.median(rewards)


if __name__ == "__main__":
    with treepo.TreePOTrainer(
        model=sys.argv[1] if len(sys.argv) > 1 else "",
        config=treepo.TreePOConfig(
            credit=BranchMedian(share=0.3), max_steps=2, prompts_per_step=8, eval={"num_problems": 16}
        ),
    ) as trainer:
        for step in trainer.steps():
            print(f"step {step.step}: reward {step.metrics['reward/mean']:.3f}")
            for tree, rewards, advantages in zip(step.trees, step.rewards, step.advantages, strict=True):
                if advantages is not None:  # trees whose rewards all agree teach nothing
                    print(f"  {tree.problem_id}  rewards {rewards}  advantages {advantages.values.round(2)}")
