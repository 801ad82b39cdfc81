"""The whole of TreePO in one file: grow trees, credit their leaves, learn from them.

    python examples/tree_loop.py            # 8 steps on the built-in task, about a minute after the base model is made

It is `treepo train` without settings, progress and files. Read it from `main` down.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from treepo.credit.base import whiten
from treepo.credit.subgroup import TreePO
from treepo.data.problem import Problem
from treepo.engine.torch.engine import TorchEngine
from treepo.evaluate.answering import accuracy
from treepo.grow.branching import EvenBranching, InitialFork
from treepo.grow.builder import GrowthRules
from treepo.grow.fallback import Backtrack
from treepo.grow.sampler import TreeSampler
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import StopRules
from treepo.learn.loss_inputs import LossInputs
from treepo.learn.losses import PPO, TokenMean
from treepo.learn.packing import PackedTree, pack
from treepo.learn.scoring import Scorer, collate
from treepo.learn.updater import with_leaf_weights
from treepo.model.policy import Policy, load_policy
from treepo.tasks.base import ANSWERS
from treepo.tasks.base_model import find_or_make_base_model
from treepo.tasks.chain_sums import ChainSums
from treepo.tree import Tree
from treepo.utils.io import default_cache_folder


def main(model_folder: Path, num_steps: int, num_problems: int) -> float:
    """Train for `num_steps` steps on `num_problems` fresh problems each; return the last step's mean reward."""
    policy = load_policy(str(model_folder))
    task = ChainSums(policy.tokenizer, seed=0)
    engine = TorchEngine(policy.model, policy.eos_ids)
    sampler = tree_sampler(engine, policy)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=2e-4, betas=(0.9, 0.95), weight_decay=0.0)
    mean_reward = 0.0

    for step in range(num_steps):
        problems = task.training_problems(step, num_problems)
        trees = grow(sampler, problems, seed=step)
        rewards = [verify(task, policy, problem, tree) for problem, tree in zip(problems, trees, strict=True)]
        learn(policy, optimizer, credit(trees, rewards))
        # The engine samples from the model that has just changed: what it cached is worth nothing now.
        engine.update_weights(policy.model)
        mean_reward = float(np.mean(rewards))
        decoded = sum(tree.num_decoded() for tree in trees)
        total = sum(len(t.token_ids) for tree in trees for t in tree.trajectories())
        print(f"step {step + 1}: mean reward {mean_reward:.3f}, decoded {decoded} tokens for trajectories of {total}")

    held_out = task.eval_problems(num_problems)
    print(f"held out, greedy: {accuracy(engine, task, held_out, policy.decode, 128, temperature=0.0):.1%}")
    return mean_reward


def tree_sampler(engine: TorchEngine, policy: Policy) -> TreeSampler:
    """Eight trajectories per tree, in segments of 16 tokens; each path forks in two while there is budget.

    GRPO's independent samples are GrowthRules.star(8, 128, policy.decode, ANSWERS).
    """
    rules = GrowthRules(
        shape=TreeShape(width=8, depth=8, segment_len=16, num_children=2),
        initial_fork=InitialFork(2, 2),
        branching=EvenBranching(),
        fallback=Backtrack(),
        stopping=StopRules(),
        decode=policy.decode,
        answers=ANSWERS,
    )
    return TreeSampler(engine, rules)


def grow(sampler: TreeSampler, problems: Sequence[Problem], seed: int) -> list[Tree]:
    """One tree per problem, in their order; they come as they finish."""
    trees = dict(sampler.grow(problems, seed))
    return [trees[i] for i in range(len(problems))]


def verify(task: ChainSums, policy: Policy, problem: Problem, tree: Tree) -> np.ndarray:
    """1 or 0 for each leaf: is the answer in the box right?"""
    answers = [policy.decode(trajectory.token_ids.tolist()) for trajectory in tree.trajectories()]
    return np.array([verdict.correct for verdict in task.verify([(problem, answer) for answer in answers])])


def credit(trees: Sequence[Tree], rewards: Sequence[np.ndarray]) -> list[PackedTree]:
    """Compare each leaf with the leaves under every ancestor it has, over the trees whose rewards differ at all."""
    kept = [(tree, r) for tree, r in zip(trees, rewards, strict=True) if r.min() < r.max()]
    if not kept:
        return []
    estimate = TreePO()
    raw = [estimate(tree, r) for tree, r in kept]
    lengths = [np.array([len(t.token_ids) for t in tree.trajectories()]) for tree, _ in kept]
    return [pack(tree, advantages) for (tree, _), advantages in zip(kept, whiten(raw, lengths), strict=True)]


def learn(policy: Policy, optimizer: torch.optim.Optimizer, packed: Sequence[PackedTree]) -> None:
    """One update on the clipped loss, the mean over the tokens of all trajectories; shared tokens are computed once."""
    if not packed:
        return
    batch = collate(with_leaf_weights(packed, TokenMean()))
    policy_logprobs = Scorer(policy.model)(batch).policy_logprobs
    loss = PPO()(LossInputs.from_packed(batch.packed, policy_logprobs))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
    optimizer.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder with a model of the built-in task")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--problems", type=int, default=32)
    options = parser.parse_args()
    main(
        options.model or find_or_make_base_model(default_cache_folder(), seed=0),
        options.steps,
        options.problems,
    )
