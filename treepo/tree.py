"""The tree of responses to one problem: it is grown, credited, and learned from.

A tree holds every token once per node. Trajectories, groups and depths are views derived from it. This file needs numpy
and the standard library only.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np

ROOT = 0
"""Index of the root node, which holds the prompt."""


class StopReason(StrEnum):
    """Why a path ended and became a leaf."""

    ANSWER = "answer"
    EOS = "eos"
    LENGTH = "length"
    DEPTH = "depth"
    REPETITION = "repetition"
    TURNS = "turns"
    ENV_DONE = "env_done"
    ENV_ERROR = "env_error"
    ENV_TIMEOUT = "env_timeout"
    ENV_DIVERGED = "env_diverged"


CUT_OFF = (StopReason.LENGTH, StopReason.DEPTH, StopReason.TURNS)
"""Why a trajectory ends that might have gone on."""

ENDED_ITSELF = (StopReason.ANSWER, StopReason.EOS, StopReason.ENV_DONE)
"""Why a trajectory ends that was at its end."""

LOST = (StopReason.ENV_ERROR, StopReason.ENV_TIMEOUT, StopReason.ENV_DIVERGED)
"""Why a trajectory ends of which nobody knows what it is worth."""

TURN_STOPS = (StopReason.TURNS, StopReason.ENV_DONE, *LOST)
"""Why a path of several turns ended: it had all its turns, or its environment ended it, failed, took too long, or did
not repeat itself when its actions were replayed."""


@dataclass(frozen=True, eq=False)
class Node:
    """One segment and its parent; the root is the prompt.

    token_ids: int32 [n], the tokens decoded for this segment, or with `observed` those that an environment, a tool or
        the chat template wrote: on the path and never learned from.
    sampled_logprobs: float32 [n] from the engine that sampled them, or None where nothing was sampled: the prompt, and
        what was observed.
    seed: the random stream that the tokens were drawn from.
    stop: why the path ended here, or None for an inner node.
    from_fallback: whether a fallback drew it, below a node whose other children were drawn before.
    observed: whether its tokens were not sampled. A leaf never is, nor the root.
    reward: what the environment gave for the turn that ends above an observed node, or at a leaf; None without.
    role: of the messages that were observed, several joined by a comma; None where it is not known.
    """

    parent: int
    token_ids: np.ndarray
    sampled_logprobs: np.ndarray | None
    seed: int
    stop: StopReason | None = None
    from_fallback: bool = False
    observed: bool = False
    reward: float | None = None
    role: str | None = None


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One path from the root to a leaf, without the prompt.

    nodes: node indices below the root, top down. token_ids: int32 [n], observed ones included. sampled_logprobs:
    float32 [n], nan where a token was observed. observed: bool [n].
    """

    leaf: int
    nodes: tuple[int, ...]
    token_ids: np.ndarray
    sampled_logprobs: np.ndarray
    stop: StopReason
    observed: np.ndarray

    @property
    def sampled_ids(self) -> np.ndarray:
        """int32: the response, without what was observed."""
        return self.token_ids[~self.observed]


@dataclass
class Tree:
    """All trajectories grown for one problem. While it grows, node indices never change; `split` only adds nodes.

    num_dropped: tokens that were decoded for it and belong to no node.
    num_fallbacks: points inside finished trajectories, or at the prompt, to which it backtracked. weights_version: the
    training step whose weights it was sampled from, 0 for the initial ones; None where nobody has said. decode: token
    ids to text, where somebody has set it so that the tree can show itself. environments: by leaf, for reward functions
    that look at them. Both are neither compared nor pickled.
    """

    problem_id: str
    nodes: list[Node] = field(default_factory=list)
    num_dropped: int = 0
    num_fallbacks: int = 0
    weights_version: int | None = None
    decode: "Callable[[Sequence[int]], str] | None" = field(default=None, compare=False)
    environments: dict[int, Any] = field(default_factory=dict, compare=False)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "decode": None, "environments": {}}

    def __repr__(self) -> str:
        num_leaves, num_tokens = len(self.leaves()), self.num_decoded()
        return f"Tree({self.problem_id[:40]!r}, {num_leaves} trajectories, {num_tokens} tokens decoded)"

    def show(self) -> None:
        """Draw the tree in the terminal; without `decode`, with token ids."""
        from treepo.report.tree_view import show_tree  # noqa: PLC0415 - a tree needs no terminal otherwise

        show_tree(self, self.decode or ids_as_text)

    def _repr_html_(self) -> str:
        from treepo.report.tree_html import tree_html  # noqa: PLC0415 - for notebooks alone

        return tree_html(self, self.decode or ids_as_text)

    @classmethod
    def from_prompt(cls, problem_id: str, prompt_ids: np.ndarray, seed: int) -> "Tree":
        """A tree of the prompt alone."""
        return cls(problem_id, [Node(-1, np.asarray(prompt_ids, np.int32), None, seed)])

    def add(self, node: Node) -> int:
        """Append a node below an existing, unfinished one and return its index."""
        assert 0 <= node.parent < len(self.nodes), f"no parent {node.parent}"
        assert self.nodes[node.parent].stop is None, "a leaf has no children"
        if node.observed:
            assert node.sampled_logprobs is None and node.stop is None, "what was observed is not sampled, and no leaf"
        else:
            assert node.sampled_logprobs is not None and len(node.token_ids) == len(node.sampled_logprobs)
        self.nodes.append(node)
        return len(self.nodes) - 1

    def split(self, index: int, offset: int) -> int:
        """Split a node in two after `offset` of its tokens and return the new, upper part.

        The lower part keeps the index, so leaves and children stay valid. If a fallback drew the node, only the upper
        part keeps that mark.
        """
        node = self.nodes[index]
        assert index != ROOT and 0 < offset < len(node.token_ids), f"cannot split node {index} at {offset}"
        assert node.sampled_logprobs is not None
        ids, logprobs = node.token_ids, node.sampled_logprobs
        upper = replace(node, token_ids=ids[:offset], sampled_logprobs=logprobs[:offset], stop=None, reward=None)
        self.nodes.append(upper)
        self.nodes[index] = replace(
            node,
            parent=len(self.nodes) - 1,
            token_ids=ids[offset:],
            sampled_logprobs=logprobs[offset:],
            from_fallback=False,
        )
        return len(self.nodes) - 1

    def cut(self, index: int, num_kept: int) -> int:
        """The node that ends exactly `num_kept` response tokens below the prompt on the path to `index`.

        Splits a node if that is inside it. 0 is the root. What was observed right after those tokens is kept, too.
        """
        end, found = 0, None
        for i in self.path(index):
            if found is not None:
                if not self.nodes[i].observed:
                    break
                found = i
                continue
            start, end = end, end + self.num_sampled(i)
            if end == num_kept:
                found = i
            elif end > num_kept:
                return self.split(i, num_kept - start)
        assert found is not None, f"cannot keep {num_kept} of {end} tokens"
        return found

    def nodes_above(self, leaves: Sequence[int]) -> list[int]:
        """Sorted indices of the root and of all nodes on the paths to these leaves."""
        return sorted({ROOT, *(i for leaf in leaves for i in self.path(leaf))})

    def with_leaves(self, leaves: Sequence[int]) -> "Tree":
        """A tree of the paths to these leaves alone, with nodes in the same order."""
        kept = set(leaves)
        nodes = [node if i in kept else replace(node, stop=None) for i, node in enumerate(self.nodes)]
        part = replace(self, nodes=nodes)
        part.prune()
        return part

    def prune(self) -> None:
        """Drop the nodes that lead to no leaf; the others are renumbered in their order."""
        kept = self.nodes_above(self.leaves())
        place = {old: new for new, old in enumerate(kept)} | {-1: -1}
        num_tokens = self.num_decoded()
        self.nodes = [replace(self.nodes[i], parent=place[self.nodes[i].parent]) for i in kept]
        self.environments = {place[i]: one for i, one in self.environments.items() if i in place}
        self.num_dropped += num_tokens - self.num_decoded()

    @property
    def prompt_ids(self) -> np.ndarray:
        return self.nodes[ROOT].token_ids

    def path(self, index: int) -> list[int]:
        """Node indices from the root to `index`, both included."""
        path = []
        while index >= 0:
            path.append(index)
            index = self.nodes[index].parent
        return path[::-1]

    def ids(self, index: int) -> np.ndarray:
        """int32 [n]: prompt and response up to the end of node `index`."""
        return np.concatenate([self.nodes[i].token_ids for i in self.path(index)])

    def logprobs(self, index: int) -> np.ndarray:
        """float32: the sampled log-probabilities of a node below the root that was not observed."""
        logprobs = self.nodes[index].sampled_logprobs
        assert logprobs is not None, "the prompt and what was observed are not sampled"
        return logprobs

    def num_sampled(self, index: int) -> int:
        """Response tokens of a node: 0 for the prompt and for what was observed."""
        node = self.nodes[index]
        return 0 if index == ROOT or node.observed else len(node.token_ids)

    @property
    def has_observed(self) -> bool:
        """Whether some tokens below the prompt were not sampled."""
        return any(node.observed for node in self.nodes)

    @property
    def has_turns(self) -> bool:
        """Whether an environment had a part in it: some was observed, has a reward of its own, or was ended by it."""
        return any(node.observed or node.reward is not None or node.stop in TURN_STOPS for node in self.nodes)

    def response_len(self, index: int) -> int:
        """Response tokens from below the prompt to the end of node `index`."""
        return sum(self.num_sampled(i) for i in self.path(index))

    def sampled_ids(self, index: int) -> np.ndarray:
        """int32 [n]: the response up to the end of node `index`, without what was observed."""
        sampled = [self.nodes[i].token_ids for i in self.path(index)[1:] if not self.nodes[i].observed]
        return np.concatenate([np.zeros(0, np.int32), *sampled])

    def turn_starts(self, leaf: int) -> tuple[int, ...]:
        """Response tokens before each turn of a trajectory; 0 is the first."""
        return (0, *(self.response_len(i) for i in self.path(leaf) if self.nodes[i].observed))

    def response_lens(self) -> np.ndarray:
        """int64 [L]: response tokens per leaf, in the order of `leaves`."""
        return np.array([self.response_len(leaf) for leaf in self.leaves()], np.int64)

    def children(self) -> list[list[int]]:
        """For each node, the indices of its children."""
        children: list[list[int]] = [[] for _ in self.nodes]
        for i, node in enumerate(self.nodes[1:], start=1):
            children[node.parent].append(i)
        return children

    def top_down(self) -> Iterator[int]:
        """Every node index, parents before children, in depth-first order."""
        children = self.children()
        stack = [ROOT]
        while stack:
            index = stack.pop()
            yield index
            stack.extend(reversed(children[index]))

    def leaves(self) -> list[int]:
        """Indices of the finished nodes, in index order; rewards and advantages follow this order."""
        return [i for i, node in enumerate(self.nodes) if node.stop is not None]

    def trajectory(self, leaf: int) -> Trajectory:
        """The path from the root to `leaf`."""
        path = self.path(leaf)[1:]
        stop = self.nodes[leaf].stop
        assert stop is not None, f"node {leaf} is not a leaf"
        return Trajectory(
            leaf=leaf,
            nodes=tuple(path),
            token_ids=np.concatenate([self.nodes[i].token_ids for i in path]),
            sampled_logprobs=np.concatenate([self._logprobs_or_nan(i) for i in path]),
            stop=stop,
            observed=np.concatenate([np.full(len(self.nodes[i].token_ids), self.nodes[i].observed) for i in path]),
        )

    def _logprobs_or_nan(self, index: int) -> np.ndarray:
        node = self.nodes[index]
        return np.full(len(node.token_ids), np.nan, np.float32) if node.observed else self.logprobs(index)

    def trajectories(self) -> list[Trajectory]:
        """One trajectory per leaf, in the order of `leaves`."""
        return [self.trajectory(leaf) for leaf in self.leaves()]

    def groups(self) -> dict[int, list[int]]:
        """For each node with a leaf at or below it, the positions of those leaves in `leaves`."""
        groups: dict[int, list[int]] = {}
        for position, leaf in enumerate(self.leaves()):
            for index in self.path(leaf):
                groups.setdefault(index, []).append(position)
        return groups

    def num_decoded(self) -> int:
        """Tokens decoded to grow this tree: those sampled for its nodes, and those dropped."""
        return sum(self.num_sampled(i) for i in range(len(self.nodes))) + self.num_dropped

    def turn_rewards(self, leaf: int) -> list[float]:
        """What the environment gave on the path to `leaf`, turn by turn; empty without an environment."""
        return [reward for i in self.path(leaf) if (reward := self.nodes[i].reward) is not None]


def ids_as_text(token_ids: Sequence[int]) -> str:
    """Token ids as text, for a tree whose text nobody knows."""
    return " ".join(map(str, token_ids))
