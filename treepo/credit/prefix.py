"""Estimators that begin with GRPO's advantage of a trajectory, and give tokens what their prefixes share or add to it.

Letters: G leaves of the tree · R_i reward of leaf i · N nodes · P response tokens of all trajectories, shared ones once
for each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from treepo.credit.base import Component, node_name, std_of
from treepo.credit.group import centred
from treepo.errors import SettingError
from treepo.tree import ROOT, Tree


@dataclass(frozen=True)
class GroupRelative:
    """The base of estimators that begin with (R_i - mean R) / (std R + eps), with the unbiased std."""

    per_node: ClassVar[bool] = True

    eps: float = 1e-6
    """Added to the standard deviation."""

    whiten: bool = False
    """Whether the advantages are then whitened over the response tokens of the whole batch."""

    def __post_init__(self) -> None:
        if self.eps <= 0:
            raise SettingError("eps", "must be positive", self.eps)

    def weight(self, rewards: np.ndarray) -> float:
        """1 / (std R + eps)."""
        return 1 / (std_of(rewards, np.ones(len(rewards))) + self.eps)

    def centred_component(self, rewards: np.ndarray, leaves: Sequence[int]) -> Component:
        """What the mean of these leaves is above that of all; of a single trajectory its reward."""
        own = float(centred(rewards, np.ones(len(rewards)))[leaves].mean())
        name = "all leaves" if len(rewards) > 1 else "no other leaf"
        return Component(name, ROOT, len(rewards), float(rewards.mean()), own, self.weight(rewards))


@dataclass(frozen=True)
class TreeAdv(GroupRelative):
    """A(n) = mean over the leaves at or below n of (R_i - mean R) / (std R + eps).

    Source: TreeAdv, arXiv 2601.03703, after its abstract and summaries of others, since there is no released code: the
    group is one tree here, not a forest, and `eps` and the unbiased std are verl's. The tokens of a node have it in
    every trajectory through it, so that it adds up to the advantages of these: where nothing is clipped and all tokens
    weigh alike, an update is that of `GRPO`. Assumes that a shared token should be held or let go by what its
    trajectories come to together.
    """

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        own, advantages = centred(rewards, np.ones(len(rewards))), np.zeros(len(tree.nodes))
        for node, leaves in tree.groups().items():
            advantages[node] = own[leaves].mean() if node != ROOT else 0.0
        return advantages * self.weight(rewards)

    def components(self, tree: Tree, rewards: np.ndarray) -> list[list[Component]]:
        groups = tree.groups()
        return [
            [self.centred_component(rewards, groups[i])] if i != ROOT and i in groups else []
            for i in range(len(tree.nodes))
        ]


@dataclass(frozen=True)
class TEMPO(GroupRelative):
    """A(i, t) = (R_i - mean R + V(s_{t+1}) - V(s_t)) / (std R + eps), one per token of each trajectory.

    V(s) is the mean reward of the trajectories that begin with the sampled tokens s. It changes where trajectories
    part; all other tokens have what `GRPO` gives them. Siblings that begin alike part where their tokens do, not where
    their nodes begin. Source: TEMPO, arXiv 2509.18314, and its release (github.com/fatebreaker/tempo, commit 0a1c273,
    `compute_tempo_outcome_advantage`). Assumes that a few trajectories tell the value of what they begin with.
    """

    per_token: ClassVar[bool] = True

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        own = centred(rewards, np.ones(len(rewards)))
        changes = [np.diff(values) for values in prefix_values(_responses(tree), rewards)]
        rows = [whole + change for whole, change in zip(own, changes, strict=True)]
        return np.concatenate(rows) * self.weight(rewards)

    def components(self, tree: Tree, rewards: np.ndarray) -> list[list[Component]]:
        """What the trajectories through a node have of `GRPO`, and how V changes along its tokens, by their number."""
        responses, groups = _responses(tree), tree.groups()
        values = prefix_values(responses, rewards)
        components: list[list[Component]] = [[] for _ in tree.nodes]
        for node in groups.keys() - {ROOT}:
            parent, num_tokens, end = tree.nodes[node].parent, tree.num_sampled(node), tree.response_len(node)
            first, start = groups[node][0], end - num_tokens
            size = sum(np.array_equal(ids[:start], responses[first][:start]) for ids in responses)
            before = float(values[first][start])
            change = float(values[first][end]) - before
            weight = self.weight(rewards) / num_tokens
            components[node] = [
                self.centred_component(rewards, groups[node]),
                Component(f"value of {node_name(parent)}", parent, size, before, change, weight),
            ]
        return components


def prefix_values(responses: Sequence[np.ndarray], rewards: np.ndarray) -> list[np.ndarray]:
    """Per response float64 [n + 1]: V of its first 0, 1, ... n tokens: the mean reward of those that begin so."""
    values = [np.zeros(len(ids) + 1) for ids in responses]
    pending = [(list(range(len(responses))), 0)]
    while pending:
        alike, start = pending.pop()
        end = _common_len([responses[i] for i in alike], start)
        parted: dict[int, list[int]] = {}
        for i in alike:
            values[i][start : end + 1] = rewards[alike].mean()
            if end < len(responses[i]):
                parted.setdefault(int(responses[i][end]), []).append(i)
        pending += [(own, end + 1) for own in parted.values()]
    return values


def _common_len(rows: Sequence[np.ndarray], start: int) -> int:
    """How many tokens all rows have in common, at least `start`."""
    first, end = rows[0], min(map(len, rows))
    for row in rows[1:]:
        parts = np.flatnonzero(row[start:end] != first[start:end])
        end = start + int(parts[0]) if len(parts) else end
    return end


def _responses(tree: Tree) -> list[np.ndarray]:
    """Per leaf the sampled tokens of its trajectory."""
    return [tree.sampled_ids(leaf) for leaf in tree.leaves()]
