"""One tree while it grows: which segments it needs next, and what becomes of those it gets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from treepo.engine import SampleResult
from treepo.grow.branching import Branching, EvenBranching, InitialFork, Level
from treepo.grow.fallback import Fallback, Finished, Resume
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import Decode, PathEnd, Stopping, StopRules
from treepo.seeds import derive_seed
from treepo.task.boxed import has_open_box
from treepo.tree import ROOT, Node, Tree


@dataclass(frozen=True)
class Rules:
    """What a tree is grown by.

    cut_full_trees: decode segment by segment even when finished and active paths together reach the width. Nothing
    forks then, so by default those paths run on in one request and the borders are laid afterwards: the same trees in
    fewer requests. Tokens decoded beyond a border at which a path turns out to have ended are dropped.
    """

    shape: TreeShape
    initial_fork: InitialFork
    branching: Branching
    fallback: Fallback
    stopping: Stopping
    decode: Decode
    cut_full_trees: bool = False

    @classmethod
    def star(cls, width: int, response_len: int, decode: Decode) -> "Rules":
        """Sequential sampling: `width` independent answers of at most `response_len` tokens per problem."""
        shape = TreeShape(width, depth=1, segment_len=response_len, num_children=width)
        fork = InitialFork(width, width)
        return cls(shape, fork, EvenBranching(), Resume(), StopRules(repetition="never"), decode)


@dataclass(frozen=True, eq=False)
class Segment:
    """What to decode: what it continues, its longest length and its random stream. In a full tree, several segments."""

    parent: int
    prefix_ids: np.ndarray
    max_new_tokens: int
    seed: int


@dataclass(frozen=True, eq=False)
class Decoded:
    """What was decoded below `parent` and is not in the tree yet."""

    parent: int
    prefix_ids: np.ndarray
    token_ids: np.ndarray
    logprobs: np.ndarray
    seed: int
    ended: bool


class StrategyError(ValueError):
    """A strategy returned something impossible; the message names it."""


class Growth:
    """The state of one growing tree. It advances when all segments of a level have been decoded."""

    def __init__(self, problem_id: str, prompt_ids: Sequence[int], seed: int, rules: Rules) -> None:
        self.tree = Tree.planted(problem_id, np.array(prompt_ids, np.int32), seed)
        self.rules = rules
        self.rng = np.random.default_rng(derive_seed(seed, "choices"))
        self.segments: list[Segment] = []
        self.results: dict[int, SampleResult] = {}
        self.finished: list[Finished] = []
        self.num_children = [0]
        self.runs_on = False
        self.gave_up = False

    def start(self) -> list[Segment]:
        """The first level: the children of the prompt."""
        return self._next_level([(ROOT, self.rules.initial_fork(self.rules.shape, self.rng))])

    def receive(self, index: int, result: SampleResult) -> list[Segment]:
        """Take the result of the level's segment `index`; return the next level once this one is complete.

        An empty list means that the level still waits for others, or that the tree is finished.
        """
        assert index not in self.results, f"segment {index} was decoded twice"
        self.results[index] = result
        if len(self.results) < len(self.segments):
            return []
        return self._advance()

    @property
    def done(self) -> bool:
        """Whether the tree has all its trajectories, or all that it will have."""
        return len(self.finished) == self.rules.shape.width or self.gave_up

    def _advance(self) -> list[Segment]:
        """Keep what was decoded as nodes; then fork the active paths, or fall back where none is active."""
        shape = self.rules.shape
        paths = [self._decoded(i) for i in range(len(self.segments))]
        num_before = len(self.finished)
        paths = self._grow_nodes(paths)
        assert len(self.finished) + len(paths) <= shape.width
        if not self.runs_on and paths:
            nodes = [path.parent for path in paths]
            return self._next_level(list(zip(nodes, self._branch(nodes, num_before), strict=True)))
        while paths:
            paths = self._grow_nodes(paths)
        if self.done:
            return []
        forks = self._resume()
        self.gave_up = not forks
        return self._next_level(forks)

    def _branch(self, nodes: list[int], num_before: int) -> list[int]:
        """The children of each active path; StrategyError if they are not what a branching must return."""
        shape, num_finished = self.rules.shape, len(self.finished)
        depth = shape.num_segments(self.tree.response_len(nodes[0]))
        level = Level(shape, self.tree, nodes, num_finished, num_finished - num_before, depth)
        counts = self.rules.branching(level, self.rng)
        if len(counts) != len(nodes) or min(counts) < 1 or sum(counts) > shape.width - num_finished:
            raise StrategyError(
                f"branching: {type(self.rules.branching).__name__} returned {counts} children for {len(nodes)} active "
                f"paths with {shape.width - num_finished} trajectories missing"
            )
        return counts

    def _decoded(self, index: int) -> Decoded:
        segment, result = self.segments[index], self.results[index]
        parts = result.token_ids, result.logprobs
        return Decoded(segment.parent, segment.prefix_ids, *parts, segment.seed, result.ended)

    def _grow_nodes(self, paths: list[Decoded]) -> list[Decoded]:
        """Add the next segment of each path to the tree; return what is left of those that stay active."""
        rests = [self._grow_node(path) for path in paths]
        return [rest for rest in rests if rest is not None]

    def _grow_node(self, path: Decoded) -> Decoded | None:
        """Add one segment of a path to the tree; return what follows it if the path stays active."""
        shape = self.rules.shape
        token_ids, more_ids = np.split(path.token_ids, [shape.segment_len])
        logprobs, more_logprobs = np.split(path.logprobs, [shape.segment_len])
        ids = np.concatenate([path.prefix_ids, token_ids])
        response = ids[len(self.tree.prompt_ids) :]
        num_segments = shape.num_segments(len(response))
        ended = path.ended and len(more_ids) == 0
        end = PathEnd(response.tolist(), token_ids.tolist(), ended, num_segments, shape, self.rules.decode)
        stop = self.rules.stopping(end)
        assert stop is not None or not ended, "a path that drew EOS went on"
        assert stop is not None or len(response) < shape.response_limit, "a path went on past its longest length"
        node = self.tree.add(Node(path.parent, token_ids, logprobs, path.seed, stop))
        self.num_children.append(0)
        if stop is None:
            return Decoded(node, ids, more_ids, more_logprobs, path.seed, path.ended)
        text = self.rules.decode(response.tolist())
        self.finished.append(Finished(node, stop, self.tree.trajectory(node).sampled_logprobs, has_open_box(text)))
        self.tree.num_dropped += len(more_ids)
        return None

    def _resume(self) -> list[tuple[int, int]]:
        """Where finished trajectories are resumed, and how many children each place gets; empty to give up."""
        shape = self.rules.shape
        missing = shape.width - len(self.finished)
        forks = []
        while missing > 0:
            cuts = self.rules.fallback(self.finished, shape, self.rng)
            if cuts is None:
                return []
            if not cuts:
                raise StrategyError(f"fallback: {type(self.rules.fallback).__name__} returned no cut")
            for cut in cuts:
                count = min(shape.num_children, missing)
                if count > 0:
                    forks.append((self._cut(cut.leaf, cut.keep), count))
                missing -= count
        return forks

    def _cut(self, leaf: int, keep: int) -> int:
        """The node that ends after `keep` tokens on the way to `leaf`, leaving room for another segment."""
        shape = self.rules.shape
        if not 0 <= leaf < len(self.tree.nodes) or not 0 <= keep < max(self.tree.response_len(leaf), 1):
            raise StrategyError(
                f"fallback: {type(self.rules.fallback).__name__} returned a cut after {keep} tokens of node {leaf}, "
                f"outside the trajectory"
            )
        if shape.num_segments(keep) >= shape.depth:
            keep = shape.segment_len * (shape.depth - 1)
        known = len(self.tree.nodes)
        node = self.tree.cut(leaf, keep)
        if len(self.tree.nodes) > known:
            self.num_children.append(1)
        return node

    def _next_level(self, forks: list[tuple[int, int]]) -> list[Segment]:
        """The segments to decode next: for each (node, count), `count` children of the node."""
        is_full = len(self.finished) + sum(count for _, count in forks) == self.rules.shape.width
        self.runs_on = is_full and not self.rules.cut_full_trees
        self.results = {}
        self.segments = [segment for node, count in forks for segment in self._fork(node, count)]
        return self.segments

    def _fork(self, node: int, count: int) -> list[Segment]:
        """The segments below `node`. An only child stays on its parent's random stream; others get their own."""
        shape = self.rules.shape
        prefix = self.tree.ids(node)
        response_len = len(prefix) - len(self.tree.prompt_ids)
        segments_left = shape.depth - shape.num_segments(response_len)
        room = min(shape.response_limit - response_len, segments_left * shape.segment_len)
        length = room if self.runs_on else min(shape.segment_len, room)
        first = self.num_children[node]
        self.num_children[node] += count
        seed = self.tree.nodes[node].seed
        if first == 0 and count == 1:
            return [Segment(node, prefix, length, seed)]
        seeds = [derive_seed(seed, response_len, first + i) for i in range(count)]
        return [Segment(node, prefix, length, s) for s in seeds]
