"""How noisy the update of a tree of some shape is, as the components of its problem predict it.

The model: what a stage adds to a path's value has the variance v_k whatever came before; scores of different nodes are
orthogonal, have the mean 0 and the squared norm q_k, and of a node's score only the part along the gradient has to do
with the rewards, as much of it as v_k. Paths end after stage k with the observed frequency, whatever they are worth.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from treepo.credit.base import Advantages, Estimator, LeafEstimator
from treepo.credit.group import DrGRPO
from treepo.credit.segment import ValueDifference
from treepo.engine.base import SampleResult
from treepo.grow.branching import Branching, InitialFork
from treepo.grow.builder import GrowthRules, Segment, TreeBuilder
from treepo.grow.fallback import Fallback, NoFallback
from treepo.grow.planned import StagedBranching
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import StopRules
from treepo.plan.components import Components
from treepo.tree import Tree
from treepo.utils.numeric import derive_seed

STOPPING = StopRules(answer="never", repetition="never")
EOS, OTHER = 0, 1
NUM_SKELETONS = 16
"""Trees over which early ends are averaged."""
NUM_COUNTED = 64
"""The same where tokens are counted alone, which takes less time per tree."""


@dataclass(frozen=True, eq=False)
class ShapeKernel:
    """What a shape makes of components, apart from the components themselves.

    pairs [K, K]: over nodes n of stage k and m of stage j, the sum of squares of what the increment of m counts in the
    weight of n's score. signal [K]: over nodes of stage k, the sum of what their own increment counts there. nodes [K]:
    nodes of stage k. All are means over trees.
    """

    pairs: np.ndarray
    signal: np.ndarray
    nodes: np.ndarray


def shape_kernel(trees: Sequence[Tree], estimator: Estimator, depth: int) -> ShapeKernel:
    """The kernel of trees in which each node is one segment, with the advantages of an estimator.

    The estimator has to be linear in the rewards; see `linear_part`.
    """
    total = ShapeKernel(np.zeros((depth, depth)), np.zeros(depth), np.zeros(depth))
    for tree in trees:
        stages = np.array([len(tree.path(i)) - 2 for i in range(1, len(tree.nodes))])
        counts = _what_counts(tree, estimator)[1:, 1:]
        in_stage = (stages[:, None] == np.arange(depth)).astype(float)
        total.pairs[:] += in_stage.T @ (counts**2) @ in_stage / len(trees)
        total.signal[:] += in_stage.T @ np.diag(counts) / len(trees)
        total.nodes[:] += in_stage.sum(0) / len(trees)
    return total


def noise_per_token(kernel: ShapeKernel, components: Components, *, scaled: bool = True) -> float:
    """tr Cov of a tree's update x its tokens / squared gradient, up to a factor that all shapes have in common.

    scaled: each stage's part of the update is first scaled so that its mean is the gradient's part, since an estimator
    that learns a stage less than the others would otherwise gain by what it leaves out; inf if it leaves out one that
    has noise. If not, what the mean update has along the gradient counts, whose parts are taken to be as the variances.
    """
    noise = components.scores * (kernel.pairs @ components.variances)
    tokens = predicted_tokens(kernel, components)
    if scaled:
        share = kernel.signal / np.maximum(components.reached, 1e-12)
        noisy = noise > 1e-12 * noise.sum()
        # Few skeletons may have no path in a stage that hardly any path reaches.
        decides = (components.variances > 0) & (kernel.nodes > 0)
        if (share[noisy | decides] < 1e-9).any():
            return np.inf
        return float((noise[noisy] / share[noisy] ** 2).sum()) * tokens
    total = components.total
    signal = float(components.variances @ kernel.signal) / total if total > 0 else 0.0
    return float(noise.sum()) * tokens / signal**2 if signal > 0 else np.inf


def predicted_tokens(kernel: ShapeKernel, components: Components) -> float:
    """Tokens decoded per tree."""
    return float(components.tokens @ kernel.nodes)


def mean_tokens(rules: GrowthRules, components: Components) -> float:
    """Tokens that a tree of such rules is predicted to decode, those of fallbacks included."""
    reached = components.reached.tolist()
    trees = grown_skeletons(rules.shape, rules.initial_fork, rules.branching, rules.fallback, reached, NUM_COUNTED)
    nodes = [len(tree.path(i)) - 2 for tree in trees for i in range(1, len(tree.nodes))]
    return float(components.tokens[nodes].sum()) / len(trees)


def linear_part(estimator: Estimator) -> Estimator:
    """The estimator itself if it is linear in the rewards, else its neighbour without a division by what was drawn:
    `ValueDifference` if it has one advantage per node, `DrGRPO` if it has one per leaf."""
    tree = skeletons((2, 4), (1.0, 1.0), 1)[0]
    one, other = np.array([0.0, 1.0, 0.5, 0.25]), np.array([1.0, 0.0, 0.25, 1.0])
    both = estimator(tree, one) + estimator(tree, other)
    if np.allclose(estimator(tree, one + other), both, atol=1e-6):
        return estimator
    if estimator.per_node:
        return ValueDifference()
    return DrGRPO(leaves=estimator.leaves) if isinstance(estimator, LeafEstimator) else DrGRPO()


def skeletons(
    paths: Sequence[int],
    reached: Sequence[float],
    num_trees: int = NUM_SKELETONS,
    *,
    fallback: Fallback = NoFallback(),  # noqa: B008 - frozen
) -> list[Tree]:
    """Trees with so many paths in each stage, whose segments are single tokens.

    reached [K]: the share of paths that begin each stage. A single tree where all reach the last.
    """
    fork, branching = InitialFork(paths[0], paths[0]), StagedBranching(tuple(paths))
    shape = TreeShape(width=max(paths), depth=len(reached), segment_len=1)
    num_trees = num_trees if min(reached) < 1 else 1
    return grown_skeletons(shape, fork, branching, fallback, reached, num_trees)


def grown_skeletons(
    shape: TreeShape,
    fork: InitialFork,
    branching: Branching,
    fallback: Fallback,
    reached: Sequence[float],
    num_trees: int,
) -> list[Tree]:
    """Trees by any strategies that look at no tokens, in the form of `skeletons`."""
    changes = {"segment_len": 1, "max_response_len": None, "min_response_len": 1, "token_budget": None, "align": 1}
    plain = TreeShape(**{f.name: getattr(shape, f.name) for f in fields(TreeShape)} | changes)
    rules = GrowthRules(plain, fork, branching, fallback, STOPPING)
    before = np.maximum(np.asarray(reached, float), 1e-12)
    ends = np.clip(1 - np.append(before[1:], before[-1]) / before, 0.0, 1.0)
    return [_grow(rules, ends, seed) for seed in range(num_trees)]


def _grow(rules: GrowthRules, ends: np.ndarray, seed: int) -> Tree:
    builder, rng = TreeBuilder("skeleton", [OTHER], seed, rules), np.random.default_rng(derive_seed("ends", seed))
    segments = builder.start()
    while segments:
        results = [_decode(segment, ends, rng) for segment in segments]
        segments = [builder.receive(i, result) for i, result in enumerate(results)][-1]
    return builder.tree


def _decode(segment: Segment, ends: np.ndarray, rng: np.random.Generator) -> SampleResult:
    """One token per stage until the path ends."""
    first, ids = len(segment.prefix_ids) - 1, []
    while len(ids) < segment.max_new_tokens and EOS not in ids:
        ids.append(EOS if rng.random() < ends[first + len(ids)] else OTHER)
    return SampleResult(0, np.array(ids, np.int32), np.full(len(ids), -1, np.float32), ids[-1] == EOS)


def _what_counts(tree: Tree, estimator: Estimator) -> np.ndarray:
    """[N, N]: what the increment of node m, to the rewards of all leaves below it, counts in the weight of n's score,
    where each of the L leaves weighs 1 / L."""
    groups, num_leaves = tree.groups(), len(tree.leaves())
    below = np.zeros((len(tree.nodes), num_leaves))
    for node, leaves in groups.items():
        below[node, leaves] = 1.0
    columns = []
    for unit in np.eye(num_leaves):
        values = Advantages(estimator(tree, unit), estimator.per_node).values
        if not estimator.per_node:
            columns.append(below @ values)
        else:
            columns.append(values * below.sum(1) if values.ndim == 1 else (values * below).sum(1))
    return np.array(columns).T @ below.T / num_leaves
