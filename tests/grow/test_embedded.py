"""Trees grown over the embedded engine, as training grows them."""

import numpy as np
import pytest
import torch

from treepo.data.problem import Problem
from treepo.engine.torch.engine import TorchEngine
from treepo.engine.torch.kv_cache import BLOCK
from treepo.grow.branching import EvenBranching, InitialFork
from treepo.grow.builder import GrowthRules
from treepo.grow.fallback import Backtrack
from treepo.grow.sampler import TreeSampler
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import StopRules
from treepo.learn.packing import pack
from treepo.learn.scoring import Scorer, collate
from treepo.model.policy import Policy, load_policy
from treepo.tasks.base import ANSWERS
from treepo.tasks.chain_sums import ChainSums
from treepo.tree import Tree


@pytest.fixture(scope="module")
def policy(chain_model) -> Policy:
    return load_policy(str(chain_model))


def grow(policy: Policy, max_num_seqs: int, order: list[int], shape: TreeShape) -> tuple[dict[str, Tree], TorchEngine]:
    engine = TorchEngine(policy.model, policy.eos_ids, max_num_seqs=max_num_seqs)
    rules = GrowthRules(shape, InitialFork(2, 4), EvenBranching(), Backtrack(), StopRules(), policy.decode, ANSWERS)
    problems = ChainSums(policy.tokenizer, seed=0).training_problems(0, len(order))
    trees = TreeSampler(engine, rules).grow([problems[i] for i in order], seed=7)
    return {tree.problem_id: tree for _, tree in trees}, engine


SHAPE = TreeShape(width=8, depth=8, segment_len=16)


def test_the_batch_does_not_change_the_trees(policy):
    """The same seed grows the same trees, node by node, with 4, 37 and 256 paths at a time, in any order."""
    wanted, _ = grow(policy, 256, list(range(12)), SHAPE)
    for max_num_seqs, order in ((4, list(range(12))), (37, list(range(11, -1, -1)))):
        trees, _ = grow(policy, max_num_seqs, order, SHAPE)
        assert trees.keys() == wanted.keys()
        for name, tree in trees.items():
            assert [n.parent for n in tree.nodes] == [n.parent for n in wanted[name].nodes]
            assert [n.seed for n in tree.nodes] == [n.seed for n in wanted[name].nodes]
            assert [n.stop for n in tree.nodes] == [n.stop for n in wanted[name].nodes]
            for node, other in zip(tree.nodes, wanted[name].nodes, strict=True):
                np.testing.assert_array_equal(node.token_ids, other.token_ids)
                if node.sampled_logprobs is not None:
                    np.testing.assert_allclose(node.sampled_logprobs, other.sampled_logprobs, atol=1e-5)


def test_sampled_logprobs_are_those_of_one_full_forward(policy):
    """Also below cached prefixes and after fallback: engine and trainer agree within 1e-5 in float32."""
    trees, _ = grow(policy, 256, list(range(12)), SHAPE)
    batch = collate([pack(tree, np.zeros(len(tree.leaves()))) for tree in trees.values()])
    with torch.no_grad():
        difference = Scorer(policy.model)(batch).policy_logprobs.numpy() - batch.packed.sampled_logprobs
    assert len(difference) > 1000
    assert abs(difference).max() < 1e-5


def test_shared_prefixes_are_computed_once(policy):
    """What prompts have in common is prefilled once; below them nothing is, and each node costs its tokens and no
    more."""
    trees, engine = grow(policy, 256, list(range(12)), SHAPE)
    prefixes = {tuple(tree.prompt_ids[:n].tolist()) for tree in trees.values() for n in range(1, len(tree.prompt_ids))}
    assert engine.counters.num_prefilled == len(prefixes)
    assert engine.counters.num_decoded == sum(tree.num_decoded() for tree in trees.values())


def test_a_star_is_sequential_sampling(policy):
    """One segment below the root for each trajectory, all of them different streams of the same prompt."""
    engine = TorchEngine(policy.model, policy.eos_ids)
    rules = GrowthRules.star(8, 64, policy.decode, ANSWERS)
    problems = ChainSums(policy.tokenizer, seed=0).training_problems(0, 3)
    for _, tree in TreeSampler(engine, rules).grow(problems, seed=1):
        assert [n.parent for n in tree.nodes] == [-1] + [0] * 8
        assert len({n.seed for n in tree.nodes[1:]}) == 8
        assert tree.num_decoded() == sum(len(t.token_ids) for t in tree.trajectories())


def test_trees_that_nobody_waits_for_leave_nothing_behind(policy):
    """Requests of an abandoned call would be handed to the next one, whose numbers they share."""
    engine = TorchEngine(policy.model, policy.eos_ids, max_num_seqs=8)
    sampler = TreeSampler(engine, GrowthRules.star(4, 64, policy.decode, ANSWERS))
    problems = ChainSums(policy.tokenizer, seed=0).training_problems(0, 6)
    wanted = dict(sampler.grow(problems, seed=1))
    abandoned = sampler.grow(problems, seed=2)
    next(abandoned)
    abandoned.close()
    assert engine.step() == []
    again = dict(sampler.grow(problems, seed=1))
    for i, tree in wanted.items():
        assert [t.token_ids.tolist() for t in tree.trajectories()] == [
            t.token_ids.tolist() for t in again[i].trajectories()
        ]


class Watched(TorchEngine):
    """Notes after each step how many tokens have keys and values, and how many slots are in use for them."""

    def step(self):
        results = super().step()
        known = sum(len(node.token_ids) for node in self.prefix_cache.root.descendants())
        running = self.rows.running()
        decoding = int((self.rows.num_known[running] - 1 - self.rows.prefix_lens[running]).sum())
        self.noted = [*getattr(self, "noted", []), (known + decoding, self.blocks.num_used * BLOCK)]
        return results


@pytest.mark.parametrize(("width", "depth", "segment_len"), [(16, 6, 32), (16, 14, 16)])
def test_memory_holds_distinct_tokens_alone(policy, width, depth, segment_len):
    """At its peak the engine uses at most 5% more slots than there are distinct tokens in the trees under way."""
    engine = Watched(policy.model, (), max_num_seqs=64)
    shape, never = TreeShape(width, depth, segment_len), StopRules("never", "never")
    rules = GrowthRules(shape, InitialFork(2, 2), EvenBranching(), Backtrack(), never)
    rng = np.random.default_rng(0)
    problems = [
        Problem(str(i), "", tuple(rng.integers(3, 29, size=rng.integers(40, 71)).tolist()), "") for i in range(5)
    ]
    trees = dict(TreeSampler(engine, rules).grow(problems, seed=0))
    tokens, slots = max(engine.noted, key=lambda pair: pair[1])
    assert engine.peak_tokens == slots
    assert slots <= 1.05 * tokens
    assert tokens <= sum(len(tree.prompt_ids) + tree.num_decoded() for tree in trees.values())
    assert engine.blocks.num_used == 0, "nothing is left when all trees are done"
