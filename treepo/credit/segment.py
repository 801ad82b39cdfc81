"""Estimators with one advantage per node: what the tokens of a segment are worth, for the trajectories through them.

V(n) is the value of having got to the end of node n, estimated from the leaves below it. The root has no advantage, and
neither has a node that leads to no leaf: 0.
Letters: N nodes of the tree · L leaves.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np

from treepo.credit.base import Component, node_name, turn_tree
from treepo.errors import SettingError
from treepo.tree import ROOT, Tree


@dataclass(frozen=True, eq=False)
class Valued:
    """values, num_leaves [N]: V and the leaves at or below. parents: for each node but the root that leads to a leaf,
    the node it came from. siblings: for each node, the values of those that came from it."""

    values: np.ndarray
    num_leaves: np.ndarray
    parents: dict[int, int]
    siblings: dict[int, np.ndarray]

    def compared(self, index: int, above: int, weight: float) -> Component:
        """V of a node less that of one above it, as a component."""
        value = float(self.values[above])
        gain = float(self.values[index]) - value
        return Component(f"value of {node_name(above)}", above, int(self.num_leaves[above]), value, gain, weight)


@dataclass(frozen=True)
class SegmentEstimator:
    """The base of estimators that compare V of a node with V of the nodes around it."""

    per_node: ClassVar[bool] = True

    values: Literal["children", "leaves"] = "children"
    """V(n): the mean of the values of n's children, or of the rewards of all leaves below n. A leaf's is its reward."""

    join_chains: bool = True
    """Take an unbranched chain of segments for one segment. If not, all but its first are compared with a parent of the
    same value."""

    level: Literal["segment", "turn"] = field(default="segment", kw_only=True)
    """What is compared: segments, or whole turns of an environment, where all tokens of a turn have the same advantage
    in a trajectory."""

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        if self.level == "turn":
            return in_turns(tree, replace(self, level="segment")(turn_tree(tree), rewards))
        valued, advantages = self.valued(tree, rewards), np.zeros(len(tree.nodes))
        for node, parent in valued.parents.items():
            advantages[node] = self._advantage(valued, node, parent)
        return advantages

    def components(self, tree: Tree, rewards: np.ndarray) -> list[list[Component]]:
        if self.level == "turn":
            own = replace(self, level="segment").components(turn_tree(tree), rewards)
            return _mean_components(own, turn_ends(tree), tree.groups(), len(tree.nodes))
        valued, components = self.valued(tree, rewards), _no_components(tree)
        for node, parent in valued.parents.items():
            components[node] = self._components(valued, node, parent)
        return components

    def _advantage(self, valued: Valued, node: int, parent: int) -> float:
        raise NotImplementedError

    def _components(self, valued: Valued, node: int, parent: int) -> list[Component]:
        raise NotImplementedError

    def valued(self, tree: Tree, rewards: np.ndarray) -> Valued:
        groups = tree.groups()
        nodes = [i for i in tree.top_down() if i in groups]
        children = {i: [child for child in own if child in groups] for i, own in enumerate(tree.children())}
        values, num_leaves = np.zeros(len(tree.nodes)), np.zeros(len(tree.nodes))
        for i in reversed(nodes):
            below = values[children[i]] if self.values == "children" and children[i] else rewards[groups[i]]
            values[i], num_leaves[i] = below.mean(), len(groups[i])
        parents: dict[int, int] = {}
        for i in nodes[1:]:
            parent = tree.nodes[i].parent
            is_joined = self.join_chains and parent != ROOT and len(children[parent]) == 1
            parents[i] = parents[parent] if is_joined else parent
        return Valued(values, num_leaves, parents, {i: values[own] for i, own in children.items()})


@dataclass(frozen=True)
class ValueDifference(SegmentEstimator):
    """A(n) = V(n) - V(parent of n).

    Source: SPO-tree, arXiv 2505.23564, whose release calls it `adv_method` "rloo", its default; and the plain form of
    the segment advantages in TreePO's release, which `FadingDifference` has. Assumes that few leaves tell the value of
    a node.
    """

    whiten: bool = True
    """Whether the advantages are then whitened over the response tokens of the whole batch."""

    def _advantage(self, valued: Valued, node: int, parent: int) -> float:
        return valued.values[node] - valued.values[parent]

    def _components(self, valued: Valued, node: int, parent: int) -> list[Component]:
        return [valued.compared(node, parent, 1.0)]


@dataclass(frozen=True)
class SPO(SegmentEstimator):
    """A(n) = (V(n) - mean V of n and its siblings) / (std of these + eps), with the biased std; 0 for an only child.

    Source: SPO-tree, arXiv 2505.23564, whose release calls it `adv_method` "grpo": (V(n) - V(parent)) / (std + 1e-8),
    for values that are means over children. Assumes that every fork that made a difference, however small, should weigh
    as much as any other.
    """

    eps: float = 1e-6
    """Added to the standard deviation (1e-8 in SPO's release)."""

    whiten: bool = False
    """Whether the advantages are then whitened over the response tokens of the whole batch."""

    def __post_init__(self) -> None:
        if self.eps <= 0:
            raise SettingError("eps", "must be positive", self.eps)

    def _advantage(self, valued: Valued, node: int, parent: int) -> float:
        # The mean of equal numbers may differ from them by rounding, which a small eps would enlarge.
        siblings = valued.siblings[parent]
        if not np.ptp(siblings) > 0:
            return 0.0
        return (valued.values[node] - siblings.mean()) / (siblings.std() + self.eps)

    def _components(self, valued: Valued, node: int, parent: int) -> list[Component]:
        siblings = valued.siblings[parent]
        if not np.ptp(siblings) > 0:
            return []
        mean, weight = float(siblings.mean()), 1 / (float(siblings.std()) + self.eps)
        name, gain = f"children of {node_name(parent)}", float(valued.values[node]) - mean
        return [Component(name, parent, len(siblings), mean, gain, weight)]


@dataclass(frozen=True)
class TreeRL(SegmentEstimator):
    """A(n) = ((V(n) - V(root)) + (V(n) - V(parent of n))) / sqrt(leaves at or below n).

    Source: TreeRL, arXiv 2506.11902; its release takes the mean of the other leaves from each reward first, which
    multiplies all advantages by L / (L - 1). A token of n counts in every trajectory through it; the square root keeps
    the first segments from outweighing the others by their number.
    """

    values: Literal["children", "leaves"] = "leaves"
    """V(n): the mean of the values of n's children, or of the rewards of all leaves below n, as published. A leaf's is
    its reward."""

    whiten: bool = False
    """Whether the advantages are then whitened over the response tokens of the whole batch."""

    def _advantage(self, valued: Valued, node: int, parent: int) -> float:
        own, root, above = valued.values[[node, ROOT, parent]]
        return ((own - root) + (own - above)) / np.sqrt(valued.num_leaves[node])

    def _components(self, valued: Valued, node: int, parent: int) -> list[Component]:
        weight = 1 / float(np.sqrt(valued.num_leaves[node]))
        # Of a child of the prompt both are the same.
        return [valued.compared(node, above, n * weight) for above, n in Counter((ROOT, parent)).items()]


@dataclass(frozen=True)
class FadingDifference:
    """A(n, i) = V(n) - eta^k V(parent of n), k the nodes of trajectory i from n to its end, n included; V(root) = 0.

    V(n) is the mean of the values of n's children, and that of a leaf is what eq. 6 of TreePO's paper makes of its
    reward, with all its ancestors and itself, however few leaves they have. Without fading, eta = 1, there is one per
    node. Source: the segment advantages of TreePO's release (TREE_SEG_BASELINE). Assumes that each node is a segment,
    and that a value matters less the farther it is from the end.
    """

    per_node: ClassVar[bool] = True

    eta: float = 1.0
    """What a parent's value counts, to the power of the segments that are left; 1 for no fading (0 or less in the
    release)."""

    whiten: bool = True
    """Whether the advantages are then whitened over the response tokens of the whole batch."""

    def __post_init__(self) -> None:
        if not 0 < self.eta <= 1:
            raise SettingError("eta", "must be within (0, 1]", self.eta)

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        values, paths = self._values(tree, rewards), [tree.path(leaf) for leaf in tree.leaves()]
        advantages = np.zeros((len(tree.nodes), len(paths)))
        for i, path in enumerate(paths):
            for place, node in enumerate(path[1:], start=1):
                advantages[node, i] = values[node] - self.eta ** (len(path) - place) * values[path[place - 1]]
        return advantages

    def components(self, tree: Tree, rewards: np.ndarray) -> list[list[Component]]:
        """Two values: the node's own, and its parent's, times the mean over trajectories of how far that has faded."""
        values, paths, groups = self._values(tree, rewards), [tree.path(leaf) for leaf in tree.leaves()], tree.groups()
        components = _no_components(tree)
        for node in groups.keys() - {ROOT}:
            parent = tree.nodes[node].parent
            left = [len(paths[i]) - paths[i].index(node) for i in groups[node]]
            faded = float(np.mean([self.eta**k for k in left]))
            for index, weight, about in (node, 1.0, "its own value"), (parent, -faded, f"value of {node_name(parent)}"):
                mean, value = float(rewards[groups[index]].mean()), float(values[index])
                components[node].append(Component(about, index, len(groups[index]), mean, value, weight))
        return components

    def _values(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        """float64 [N]: V."""
        groups, children, values = tree.groups(), tree.children(), np.zeros(len(tree.nodes))
        paths = [tree.path(leaf) for leaf in tree.leaves()]
        for i in reversed([i for i in tree.top_down() if i in groups and i != ROOT]):
            below = [values[child] for child in children[i] if child in groups]
            values[i] = np.mean(below) if below else _compared(rewards, groups, paths[groups[i][0]])
        return values


def turn_ends(tree: Tree) -> np.ndarray:
    """int64 [N, L]: where the turn ends that a node is in, in each trajectory through it; 0 elsewhere."""
    turns, ends = turn_tree(tree), np.zeros((len(tree.nodes), len(tree.leaves())), np.int64)
    for i, leaf in enumerate(tree.leaves()):
        borders = turns.path(leaf)
        for node in reversed(tree.path(leaf)[1:]):
            if node == borders[-2]:
                borders.pop()
            ends[node, i] = borders[-1]
    return ends


def in_turns(tree: Tree, advantages: np.ndarray) -> np.ndarray:
    """float64 [N, L]: of each node in each trajectory through it what the end of its turn has in `advantages` [N]."""
    ends = turn_ends(tree)
    return np.where(ends != ROOT, advantages[ends], 0.0)


def _mean_components(
    of_ends: Sequence[list[Component]], ends: np.ndarray, groups: Mapping[int, Sequence[int]], num_nodes: int
) -> list[list[Component]]:
    """Per node the components of the ends of its turns, each weighed by its share of the trajectories through it."""
    components: list[list[Component]] = [[] for _ in range(num_nodes)]
    for node in groups.keys() - {ROOT}:
        for end, count in Counter(ends[node, groups[node]].tolist()).items():
            share = count / len(groups[node])
            components[node] += [replace(c, weight=c.weight * share) for c in of_ends[end]]
    return components


def _no_components(tree: Tree) -> list[list[Component]]:
    return [[] for _ in tree.nodes]


def _compared(rewards: np.ndarray, groups: Mapping[int, Sequence[int]], path: Sequence[int]) -> float:
    """The reward of the leaf at the end of a path, less the means of its groups, each weighed by its size (eq. 6)."""
    own, sizes = rewards[groups[path[-1]][0]], [len(groups[node]) for node in path]
    return float(np.average([own - rewards[groups[node]].mean() for node in path], weights=sizes))
