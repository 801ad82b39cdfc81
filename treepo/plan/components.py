"""Variance components of trees: how much of the rewards' variance is decided in each stage of a response.

Stage k is the k-th segment, K the depth of the shape. V_k is the policy's mean reward after k segments, so V_0 is that
of the prompt and V_K the reward itself. docs/shapes.md has the derivations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from treepo.credit.leaf_weights import shares
from treepo.grow.shape import TreeShape
from treepo.tree import ROOT, Tree

RIDGE = 1e-9
"""Beside coefficients of at most 1: stages that no fork tells apart get equal parts of what they have together."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over trees from which components are solved; those of several trees are added.

    spans [K, K]: row k, over forks at depth k, each with the share w of the policy that its node stands for: w x the
    share of children whose path goes through stage j before it forks again. gains [K]: over the same forks, w x an
    unbiased estimate of the variance that these stages add. forks [K]: w. tokens, scores, reached [K]: over trees, the
    tokens of stage k, the squared norms of their scores, and whether stage k begins, per path of the policy.
    """

    spans: np.ndarray
    gains: np.ndarray
    forks: np.ndarray
    tokens: np.ndarray
    scores: np.ndarray
    reached: np.ndarray

    @classmethod
    def from_table(cls, table: np.ndarray) -> "Moments":
        """The moments that `table` has written."""
        return cls(table[:, :-5], *table[:, -5:].T)

    @property
    def table(self) -> np.ndarray:
        """float64 [K, K + 5]: all of them, to be added up over processes and kept in a checkpoint."""
        columns = (self.gains, self.forks, self.tokens, self.scores, self.reached)
        return np.column_stack([self.spans, *columns])

    def __add__(self, other: "Moments") -> "Moments":
        return Moments.from_table(self.table + other.table)


@dataclass(frozen=True, eq=False)
class Components:
    """What each stage adds to the variance of the rewards of a problem's responses, and what it costs; all [K].

    variances: of V_k given the first k - 1 segments, for paths that begin stage k. scores: the expected squared norm of
    the scores of the tokens of stage k, for such paths. tokens: its tokens, for such paths. reached: the share of paths
    that begin stage k.
    """

    variances: np.ndarray
    scores: np.ndarray
    tokens: np.ndarray
    reached: np.ndarray

    @property
    def depth(self) -> int:
        """Stages."""
        return len(self.reached)

    @property
    def total(self) -> float:
        """The variance of the reward of a response, given the problem."""
        return float(self.variances @ self.reached)

    def per_path(self) -> "Components":
        """The same per path of the policy, as if all paths reached the last stage."""
        variances, scores, tokens = (own * self.reached for own in (self.variances, self.scores, self.tokens))
        return Components(variances, scores, tokens, np.ones(self.depth))

    def stage_variances(self, *, local_baseline: bool = False) -> np.ndarray:
        """float64 [K]: S_k, such that the noise of a mean over trees with N_k paths in stage k is sum S_k / N_k.

        With a baseline that is the problem's own mean: q_k (v_1 + ... + v_k) + (q_1 + ... + q_{k-1}) v_k; with the
        value of the parent for a baseline: (q_1 + ... + q_k) v_k. q are squared norms of scores and v variances, per
        path of the policy (docs/shapes.md).
        """
        plain = self.per_path()
        scores, variances = plain.scores, plain.variances
        above = np.cumsum(scores)
        if local_baseline:
            return above * variances
        return scores * np.cumsum(variances) + (above - scores) * variances


def moments_of(tree: Tree, values: np.ndarray, shape: TreeShape) -> Moments:
    """The moments of one tree.

    values: one per leaf, float64 [L], or a vector per leaf [L, D], whose variance is the trace of its covariance.
    shape: that of the rules, not yet aligned. What a fallback drew counts nothing, since it was drawn for what came
    before.
    """
    own = shape.for_prompt(len(tree.prompt_ids), len(tree.children()[ROOT]))
    stages = [min(own.num_segments(tree.response_len(i)), shape.depth) for i in range(len(tree.nodes))]
    below = shares(tree)
    children = [[i for i in of if below[i] > 0] for of in tree.children()]
    means, errors = _means_and_errors(tree, np.reshape(values, (len(values), -1)), below, children)
    weights = np.zeros(len(tree.nodes))
    table = np.zeros((shape.depth, shape.depth + 5))
    moments = Moments.from_table(table)
    for i in tree.top_down():
        node = tree.nodes[i]
        weights[i] = 1.0 if i == ROOT else weights[node.parent] * below[i]
        if i != ROOT and weights[i] > 0:
            stage = max(stages[i], 1) - 1
            moments.tokens[stage] += weights[i] * len(node.token_ids)
            moments.scores[stage] += weights[i] * float(-np.expm1(tree.logprobs(i).astype(np.float64)).sum())
            moments.reached[stage] += weights[i] * (stages[node.parent] <= stage)
        if len(children[i]) > 1 and weights[i] > 0 and stages[i] < shape.depth:
            of = children[i]
            spread = np.var(means[of], axis=0, ddof=1).sum() - np.mean([errors[c] for c in of])
            moments.gains[stages[i]] += weights[i] * spread
            moments.forks[stages[i]] += weights[i]
            for child in of:
                through = sorted({max(stages[j], 1) - 1 for j in _chain(child, children)})
                moments.spans[stages[i], through] += weights[i] / len(of)
    return moments


def _means_and_errors(
    tree: Tree, values: np.ndarray, below: np.ndarray, children: Sequence[Sequence[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """([N, D] an unbiased estimate of each node's value, [N] one of the trace of that estimate's own covariance)."""
    means, errors = np.zeros((len(tree.nodes), values.shape[1])), np.zeros(len(tree.nodes))
    means[tree.leaves()] = values
    for i in reversed(list(tree.top_down())):
        if of := list(children[i]):
            means[i] = below[of] @ means[of]
            # Estimates of siblings are uncorrelated, so the variance of their mean follows from their spread alone.
            errors[i] = np.var(means[of], axis=0, ddof=1).sum() / len(of) if len(of) > 1 else errors[of[0]]
    return means, errors


def _chain(node: int, children: Sequence[Sequence[int]]) -> list[int]:
    """The nodes from one down to the next that forks or ends."""
    chain = [node]
    while len(children[chain[-1]]) == 1:
        chain.append(children[chain[-1]][0])
    return chain


def add_moments(moments: Sequence[Moments]) -> Moments:
    """Their sum."""
    return reduce(lambda one, other: one + other, moments)


def solve_components(moments: Moments, *, signed: bool = False) -> Components:
    """The components that the moments of many trees have; variances are not negative, unless they may be `signed`.

    Least squares with one equation per depth that forks: what the forks add is the sum of the variances of the stages
    that they span. Stages below the last fork, which none tells apart, share what is left equally.
    """
    known = moments.forks > 0
    weights = np.sqrt(moments.forks[known])
    matrix = moments.spans[known] / moments.forks[known][:, None]
    found = _least_squares(matrix * weights[:, None], moments.gains[known] / moments.forks[known] * weights, signed)
    begun = np.maximum(moments.reached, 1e-12)
    num_trees = max(float(moments.reached[0]), 1e-12)
    return Components(
        variances=np.where(moments.reached > 0, found, 0.0),
        scores=np.where(moments.reached > 0, moments.scores / begun, 0.0),
        tokens=np.where(moments.reached > 0, moments.tokens / begun, 0.0),
        # Of finitely many paths fewer begin a later stage, but for rounding.
        reached=np.minimum.accumulate(np.minimum(moments.reached / num_trees, 1.0)),
    )


def _least_squares(matrix: np.ndarray, target: np.ndarray, signed: bool) -> np.ndarray:
    """argmin |A x - y|^2 + ridge |x|^2; unless signed, the most negative entries are fixed at 0 one after the other."""
    free = np.ones(matrix.shape[1], bool)
    solution = np.zeros(matrix.shape[1])
    while free.any():
        own = matrix[:, free]
        scale = RIDGE * max(float((own**2).sum()), 1e-12)
        solution[:] = 0.0
        solution[free] = np.linalg.solve(own.T @ own + scale * np.eye(own.shape[1]), own.T @ target)
        if signed or solution.min() >= 0:
            break
        free[solution.argmin()] = False
    return np.maximum(solution, 0.0) if not signed else solution
