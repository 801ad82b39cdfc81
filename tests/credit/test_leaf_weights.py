"""Weights of leaves: exact expectations over all trees of tiny policies, and what must not change them."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.credit.exact import EOS, TinyPolicy, all_trees, value_of, values_of
from tests.grow.scripts import World, worlds
from tests.trees import add_segment, complete_tree, copy_of, relabelled, star, tree_of, trees
from treepo.credit.leaf_weights import group_means, leaf_weights, shares, weighted_mean
from treepo.grow.branching import EvenBranching, InitialFork, LogprobBranching, RandomBranching, TokenBudgetBranching
from treepo.grow.builder import GrowthRules
from treepo.grow.fallback import Backtrack, BacktrackPoint, NoFallback
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import StopRules
from treepo.tree import ROOT, StopReason, Tree

NEVER = StopRules(answer="never", repetition="never")
SMALL = TreeShape(width=4, depth=3, segment_len=1, num_children=2)
CHAIN = TreeShape(width=2, depth=2, segment_len=2, num_children=1)
EOS_OR_ON, THREE = TinyPolicy(2), TinyPolicy(3)
TWO, UP_TO_THREE, ONE = InitialFork(2, 2), InitialFork(1, 3), InitialFork(1, 1)
BRANCHINGS = (
    EvenBranching(),
    RandomBranching(1, 3),
    TokenBudgetBranching(3),
    LogprobBranching("low", temperature=0.3),
    LogprobBranching("high", span="path", reduction="sum", temperature=0.3),
)
KINDS = ("ignored", "alike", "all")


def rules(shape: TreeShape = SMALL, fork: InitialFork = TWO, **changed: object) -> GrowthRules:
    """GrowthRules that read no text."""
    usual = {"branching": EvenBranching(), "fallback": NoFallback(), "stopping": NEVER}
    return GrowthRules(shape, fork, **{**usual, **changed})


def errors(rules: GrowthRules, policy: TinyPolicy) -> dict[str, tuple[float, float]]:
    """(bias, variance) of the plain mean over leaves and of each weighting, over all that can happen."""
    target = policy.mean(value_of, rules.shape.max_response_tokens, rules.shape.min_response_len)
    moments = {name: np.zeros(3) for name in ("plain", *KINDS)}
    for probability, tree in all_trees(rules, policy):
        values = values_of(tree)
        means = {"plain": values.mean()} | {kind: weighted_mean(tree, values, kind) for kind in KINDS}
        for name, mean in means.items():
            moments[name] += probability * np.array([1.0, mean, mean**2])
    assert all(m[0] == pytest.approx(1, abs=1e-11) for m in moments.values())
    return {name: (m[1] - target, m[2] - m[1] ** 2) for name, m in moments.items()}


@pytest.mark.parametrize("fork", [TWO, UP_TO_THREE])
@pytest.mark.parametrize("branching", BRANCHINGS)
def test_without_fallback_the_weighted_mean_is_exact_and_the_plain_one_is_not(branching, fork) -> None:
    """Whatever decides about forks: active paths, chance, log-probabilities above the fork."""
    found = errors(rules(fork=fork, branching=branching), EOS_OR_ON)
    assert abs(found["plain"][0]) > 0.01
    for kind in KINDS:
        assert found[kind][0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("branching", BRANCHINGS)
@pytest.mark.parametrize(
    "fallback", [Backtrack(), Backtrack("all", cut="unlikely_token"), Backtrack("longest", cut="prompt")]
)
def test_what_a_fallback_drew_must_not_count(branching, fallback) -> None:
    """Without it exact; with it biased, whether leaves weigh the same or forks do."""
    shape = replace(SMALL, width=3) if isinstance(branching, RandomBranching | TokenBudgetBranching) else SMALL
    fork = InitialFork(1, 2) if shape.width == 3 else TWO
    found = errors(rules(shape, fork, branching=branching, fallback=fallback), EOS_OR_ON)
    assert found["ignored"][0] == pytest.approx(0, abs=1e-12)
    assert abs(found["all"][0]) > 0.004
    assert abs(found["plain"][0]) > 0.004


def test_three_tokens_and_a_token_budget() -> None:
    """The width that a budget allows depends on lengths, and is known before children are drawn."""
    shape = TreeShape(width=4, depth=3, segment_len=1, num_children=2, token_budget=6)
    found = errors(rules(shape, fallback=Backtrack()), EOS_OR_ON)
    assert found["ignored"][0] == pytest.approx(0, abs=1e-12)
    assert abs(found["plain"][0]) > 0.02
    branching = LogprobBranching("high", temperature=0.3)
    found = errors(rules(replace(SMALL, width=3), branching=branching, fallback=Backtrack()), THREE)
    assert found["ignored"][0] == pytest.approx(0, abs=1e-12)
    assert abs(found["plain"][0]) > 0.01


def test_where_nothing_ends_early_the_plain_mean_is_biased_by_log_probabilities_alone() -> None:
    """Uneven shares that look at nothing only cost variance."""
    shape, policy = replace(SMALL, width=3), TinyPolicy(3, ends=False)
    even = errors(rules(shape), policy)
    assert even["plain"][0] == pytest.approx(0, abs=1e-12)
    assert even["ignored"][0] == pytest.approx(0, abs=1e-12)
    guided = errors(rules(shape, branching=LogprobBranching("high", temperature=0.3)), policy)
    assert abs(guided["plain"][0]) > 0.01
    assert guided["ignored"][0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("fork_and_shape", [(ONE, CHAIN), (ONE, replace(CHAIN, num_children=2))])
@pytest.mark.parametrize("order", ["answered", "all", "longest"])
@pytest.mark.parametrize("cut", ["boundary", "prompt"])
def test_trajectories_that_end_alike_are_exchangeable(fork_and_shape, order, cut) -> None:
    """Exact, with less variance than without them, where growing looks at lengths and stop reasons alone."""
    fork, shape = fork_and_shape
    found = errors(rules(shape, fork, fallback=Backtrack(order, cut=cut)), THREE)
    assert found["alike"][0] == pytest.approx(0, abs=1e-12)
    assert found["ignored"][0] == pytest.approx(0, abs=1e-12)
    assert found["alike"][1] < found["ignored"][1] - 1e-5


@dataclass(frozen=True)
class FirstAgain:
    """Resumes the first trajectory from the prompt."""

    def __call__(self, finished, shape, rng) -> list[BacktrackPoint]:
        return [BacktrackPoint(finished[0].leaf, 0)]


def test_they_are_not_where_growing_looks_at_log_probabilities() -> None:
    """The original was looked at, by a cut or by a fork; what the fallback drew was not."""
    by_cut = errors(rules(CHAIN, ONE, fallback=Backtrack(cut="unlikely_token")), THREE)
    shape = TreeShape(width=5, depth=2, segment_len=1, num_children=2)
    branching = LogprobBranching("high", temperature=0.1)
    by_fork = errors(rules(shape, branching=branching, fallback=FirstAgain()), THREE)
    for found in (by_cut, by_fork):
        assert abs(found["alike"][0]) > 1e-4
        assert found["ignored"][0] == pytest.approx(0, abs=1e-12)


def test_a_fallback_that_looks_at_nothing_makes_siblings_of_what_it_draws() -> None:
    """One path, and always another one from the prompt: two independent draws."""
    found = errors(rules(CHAIN, ONE, fallback=Backtrack("all", cut="prompt")), THREE)
    assert found["all"][0] == pytest.approx(0, abs=1e-12)
    assert found["all"][1] == pytest.approx(found["ignored"][1] / 2)


def test_no_mean_is_exact_once_short_trajectories_were_dropped() -> None:
    """A limit that the docs state."""
    shape = TreeShape(width=3, depth=3, segment_len=1, num_children=2, min_response_len=2)
    for fallback in (NoFallback(), Backtrack()):
        found = errors(rules(shape, fallback=fallback), EOS_OR_ON)
        assert all(abs(bias) > 0.01 for bias, _ in found.values())


def test_the_mean_below_a_node_is_exact_given_its_prefix() -> None:
    """Group means: over all trees, the node's estimate less the policy's mean from there on sums to 0."""
    most = SMALL.max_response_tokens
    error = np.zeros(3)
    plain = np.zeros(3)
    for probability, tree in all_trees(rules(fallback=Backtrack()), EOS_OR_ON):
        means = group_means(tree, values_of(tree))
        for index, leaves in tree.groups().items():
            prefix = tree.ids(index)[1:].tolist()
            if tree.nodes[index].stop is None and not tree.nodes[index].from_fallback:
                exact = EOS_OR_ON.mean(value_of, most, start=prefix)
                error[len(prefix)] += probability * (means[index] - exact)
                plain[len(prefix)] += probability * (values_of(tree)[leaves].mean() - exact)
    assert error == pytest.approx(np.zeros(3), abs=1e-12)
    assert abs(plain[0]) > 1e-3


def score_of(policy: TinyPolicy, response: list[int], start: int) -> float:
    """Derivative of the log-probability of the tokens from `start` on by the logit of EOS."""
    return sum((response[i] == EOS) - policy(response[:i])[EOS] for i in range(start, len(response)))


@pytest.mark.parametrize("branching", [EvenBranching(), LogprobBranching("high", temperature=0.3)])
def test_the_policy_gradient_with_each_baseline(branching) -> None:
    """Exact with a constant and with the mean over the leaves not below a node; the tree's own mean shrinks it."""
    target = EOS_OR_ON.mean(lambda r: value_of(r) * score_of(EOS_OR_ON, list(r), 0), SMALL.max_response_tokens)
    found = np.zeros(3)
    for probability, tree in all_trees(rules(branching=branching, fallback=Backtrack()), EOS_OR_ON):
        values, weights = values_of(tree), leaf_weights(tree)
        means, groups = group_means(tree, values), tree.groups()
        scores = np.array([score_of(EOS_OR_ON, tree.ids(leaf)[1:].tolist(), 0) for leaf in tree.leaves()])
        others = 0.0
        for index in range(1, len(tree.nodes)):
            response = tree.ids(index)[1:].tolist()
            score = score_of(EOS_OR_ON, response, len(response) - len(tree.nodes[index].token_ids))
            weight = weights[groups[index]].sum()
            rest = (means[ROOT] - weight * means[index]) / (1 - weight)
            others += weight * score * (means[index] - rest)
        by_constant = weights @ ((values - 0.3) * scores)
        found += probability * np.array([by_constant, others, weights @ ((values - means[ROOT]) * scores)])
    assert found[:2] == pytest.approx([target, target], abs=1e-12)
    assert 0.3 < found[2] / target < 0.7


def test_a_fallbacks_share_by_hand() -> None:
    """Two originals of 3 tokens that end alike and one drawn by a fallback that does, one that does not."""
    tree = tree_of({0: (1, 2)}, 3)
    same = add_segment(tree, add_segment(tree, ROOT, [1, 2], from_fallback=True), [3], StopReason.EOS)
    other = add_segment(tree, ROOT, [1, 2, 3], StopReason.ANSWER, from_fallback=True)
    assert tree.leaves() == [1, 2, same, other]
    assert leaf_weights(tree) == pytest.approx([1 / 2, 1 / 2, 0, 0])
    assert leaf_weights(tree, "alike") == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert leaf_weights(tree, "all") == pytest.approx([1 / 4] * 4)
    assert group_means(tree, np.array([1.0, 0, 1, 1]))[ROOT] == pytest.approx(1 / 2)
    assert group_means(tree, np.array([1.0, 0, 1, 1]), "alike")[ROOT] == pytest.approx(2 / 3)


def test_what_a_fallback_drew_counts_where_nothing_else_is_left() -> None:
    """All paths were dropped as too short and others grown from the prompt."""
    tree = Tree.from_prompt("p", np.array([7]), seed=0)
    for _ in range(4):
        add_segment(tree, ROOT, [1, 2], StopReason.EOS, from_fallback=True)
    for kind in KINDS:
        assert leaf_weights(tree, kind) == pytest.approx([1 / 4] * 4)


@pytest.mark.parametrize("kind", KINDS)
def test_leaves_of_a_star_and_of_a_complete_tree_weigh_the_same(kind) -> None:
    """Then the weighted mean is the mean."""
    assert leaf_weights(star(7), kind) == pytest.approx([1 / 7] * 7)
    assert leaf_weights(complete_tree(3), kind) == pytest.approx([1 / 8] * 8)
    assert leaf_weights(star(1), kind) == pytest.approx([1.0])


def test_an_early_end_weighs_as_much_as_all_that_its_sibling_became() -> None:
    """One child is a leaf, the other one forks in two and then in two again."""
    tree = tree_of({0: (1, 2), 2: (3, 4), 4: (5, 6, 7)})
    assert leaf_weights(tree) == pytest.approx([1 / 2, 1 / 4, 1 / 12, 1 / 12, 1 / 12])


@settings(max_examples=200, deadline=None)
@given(trees(), st.integers(0, 2**32), st.sampled_from(KINDS))
def test_names_chains_and_splits_change_nothing(tree: Tree, seed: int, kind) -> None:
    """Neither the order of nodes, nor where unforked segments are divided."""
    rng = np.random.default_rng(seed)
    weights = leaf_weights(tree, kind)
    other, old = relabelled(tree, rng)
    assert leaf_weights(other, kind) == pytest.approx(weights[old])
    other = copy_of(tree)
    for index in range(1, len(tree.nodes)):
        if len(tree.nodes[index].token_ids) > 1:
            other.split(index, int(rng.integers(1, len(tree.nodes[index].token_ids))))
    assert leaf_weights(other, kind) == pytest.approx(weights)


@settings(max_examples=200, deadline=None)
@given(trees(), st.integers(0, 2**32), st.sampled_from(KINDS))
def test_the_roots_mean_is_the_weighted_mean(tree: Tree, seed: int, kind) -> None:
    """Bottom up or top down; a node's is that of its own subtree, the same scale as the values."""
    values = np.random.default_rng(seed).normal(size=len(tree.leaves()))
    means = group_means(tree, values, kind)
    assert means[ROOT] == pytest.approx(weighted_mean(tree, values, kind))
    assert means[tree.leaves()] == pytest.approx(values)
    assert group_means(tree, np.ones(len(values)), kind) == pytest.approx(np.ones(len(tree.nodes)))
    for index, leaves in tree.groups().items():
        assert values[leaves].min() - 1e-9 <= means[index] <= values[leaves].max() + 1e-9


@settings(max_examples=150, deadline=None)
@given(worlds(), st.sampled_from(KINDS))
def test_weights_of_grown_trees_are_a_distribution(world: World, kind) -> None:
    """Also after drops, splits, token budgets and several fallbacks; what was drawn without one always counts."""
    tree = world.grow(segment_full_trees=False)
    weights = leaf_weights(tree, kind)
    assert weights.dtype == np.float64
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    below = shares(tree, kind)
    for children in filter(None, tree.children()):
        assert below[children].sum() == pytest.approx(1)
    is_drawn = [any(tree.nodes[i].from_fallback for i in tree.path(leaf)) for leaf in tree.leaves()]
    if world.shape.min_response_len == 1:
        assert all(w > 0 for w, late in zip(weights, is_drawn, strict=True) if not late)
        assert kind != "ignored" or not weights[is_drawn].any()
        assert kind != "all" or weights.min() > 0


@settings(max_examples=50, deadline=None)
@given(worlds())
def test_the_tree_without_fallback_has_the_same_weighted_mean(world: World) -> None:
    """Ignoring what a fallback drew is as if it had not been."""
    world = replace(world, shape=replace(world.shape, min_response_len=1))
    tree, before = world.grow(), world.grow(fallback=NoFallback())
    assert weighted_mean(tree, values_of(tree)) == pytest.approx(weighted_mean(before, values_of(before)))
