"""One tree while it grows: which segments it needs next, and what becomes of those it gets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from treepo.data.problem import Decode
from treepo.engine.base import SampleResult
from treepo.errors import StrategyError
from treepo.grow.branching import Branching, EvenBranching, InitialFork, Level
from treepo.grow.fallback import FROM_PROMPT, Backtrack, Fallback, FinishedPath
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import PathEnd, Stopping, StopRules, no_text
from treepo.tree import ROOT, Node, Tree
from treepo.utils.rng import derive_seed
from treepo.utils.text import has_open_box


@dataclass(frozen=True)
class GrowthRules:
    """What a tree is grown by.

    segment_full_trees: decode segment by segment even when finished and active paths together reach the width. Nothing
    forks then, so by default those paths run on in one request and the boundaries are laid afterwards: the same trees in
    fewer requests. Tokens decoded beyond a boundary at which a path turns out to have ended are dropped.
    """

    shape: TreeShape
    initial_fork: InitialFork
    branching: Branching
    fallback: Fallback
    stopping: Stopping
    decode: Decode = no_text
    segment_full_trees: bool = False

    @classmethod
    def star(cls, width: int, response_len: int, decode: Decode) -> "GrowthRules":
        """Sequential sampling: `width` independent answers of at most `response_len` tokens per problem."""
        shape = TreeShape(width, depth=1, segment_len=response_len, num_children=width)
        fork = InitialFork(width, width)
        return cls(shape, fork, EvenBranching(), Backtrack(), StopRules(repetition="never"), decode)


@dataclass(frozen=True, eq=False)
class Segment:
    """What to decode: what it continues, its longest length and its random stream. In a full tree, several segments."""

    parent: int
    prefix_ids: np.ndarray
    max_new_tokens: int
    seed: int


@dataclass(frozen=True, eq=False)
class PendingPath:
    """What was decoded below `parent` and is not in the tree yet; resumed: it begins what a fallback drew."""

    parent: int
    prefix_ids: np.ndarray
    token_ids: np.ndarray
    logprobs: np.ndarray
    seed: int
    ended: bool
    from_fallback: bool = False


class TreeBuilder:
    """The state of one growing tree. It advances when all segments of a level have been decoded."""

    def __init__(self, problem_id: str, prompt_ids: Sequence[int], seed: int, rules: GrowthRules) -> None:
        self.tree = Tree.from_prompt(problem_id, np.array(prompt_ids, np.int32), seed)
        self.rules = rules
        self.shape = rules.shape
        self.rng = np.random.default_rng(derive_seed(seed, "choices"))
        self.segments: list[Segment] = []
        self.results: dict[int, SampleResult] = {}
        self.finished: list[FinishedPath] = []
        self.num_short = 0
        self.num_children = [0]
        self.decode_to_end = False
        self.is_fallback = False
        self.gave_up = False

    def start(self) -> list[Segment]:
        """The first level: the children of the prompt."""
        num_first = self.rules.initial_fork(self.shape, self.rng)
        self.shape = self.shape.for_prompt(len(self.tree.prompt_ids), num_first)
        return self._next_level([(ROOT, num_first)])

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
        return len(self.finished) == self.shape.width or self.gave_up

    def _advance(self) -> list[Segment]:
        """Keep what was decoded as nodes; then fork the active paths, or fall back where none is active."""
        shape = self.shape
        paths = [self._decoded(i) for i in range(len(self.segments))]
        num_before = len(self.finished)
        paths = self._grow_nodes(paths)
        assert len(self.finished) + len(paths) <= shape.width
        if not self.decode_to_end and paths:
            self.is_fallback = False
            nodes = [path.parent for path in paths]
            return self._next_level(list(zip(nodes, self._branch(nodes, num_before), strict=True)))
        while paths:
            paths = self._grow_nodes(paths)
        self.is_fallback = True
        forks = [] if self.done else self._resume()
        self.gave_up = not forks
        if self.done and self.num_short:
            self.tree.prune()
        return self._next_level(forks)

    def _branch(self, nodes: list[int], num_before: int) -> list[int]:
        """The children of each active path; StrategyError if they are not what a branching must return."""
        num_finished = len(self.finished)
        lengths = [self.tree.response_len(node) for node in nodes]
        shape = self._affordable(float(np.mean(lengths)) + self.shape.segment_len)
        depth = shape.num_segments(lengths[0])
        level = Level(shape, self.tree, nodes, num_finished, num_finished - num_before, depth)
        counts = self.rules.branching(level, self.rng)
        missing = max(shape.width - num_finished, len(nodes))
        if len(counts) != len(nodes) or min(counts) < 1 or sum(counts) > missing:
            raise StrategyError(
                f"branching: {type(self.rules.branching).__name__} returned {counts} children for {len(nodes)} active "
                f"paths with {missing} trajectories missing"
            )
        return counts

    def _affordable(self, next_len: float) -> TreeShape:
        """The shape with the width that its token budget, if there is one, allows now."""
        return self.shape.within_budget([f.response_len for f in self.finished], next_len)

    def _decoded(self, index: int) -> PendingPath:
        segment, result = self.segments[index], self.results[index]
        parts = result.token_ids, result.logprobs
        return PendingPath(segment.parent, segment.prefix_ids, *parts, segment.seed, result.ended, self.is_fallback)

    def _grow_nodes(self, paths: list[PendingPath]) -> list[PendingPath]:
        """Add the next segment of each path to the tree; return what is left of those that stay active."""
        rests = [self._grow_node(path) for path in paths]
        return [rest for rest in rests if rest is not None]

    def _grow_node(self, path: PendingPath) -> PendingPath | None:
        """Add one segment of a path to the tree; return what follows it if the path stays active."""
        shape = self.shape
        length = shape.segment_at(len(path.prefix_ids) - len(self.tree.prompt_ids))
        token_ids, more_ids = np.split(path.token_ids, [length])
        logprobs, more_logprobs = np.split(path.logprobs, [length])
        ids = np.concatenate([path.prefix_ids, token_ids])
        response = ids[len(self.tree.prompt_ids) :]
        num_segments = shape.num_segments(len(response))
        ended = path.ended and len(more_ids) == 0
        end = PathEnd(response.tolist(), token_ids.tolist(), ended, num_segments, shape, self.rules.decode)
        stop = self.rules.stopping(end)
        if stop is None and (ended or len(response) >= shape.max_response_tokens):
            name = type(self.rules.stopping).__name__
            raise StrategyError(f"stopping: {name} let a path go on after EOS or beyond its longest length")
        if stop is not None:
            self.tree.num_dropped += len(more_ids)
            if self._is_too_short(len(response)):
                self.num_short += 1
                self.tree.num_dropped += len(token_ids)
                return None
        node = self.tree.add(Node(path.parent, token_ids, logprobs, path.seed, stop, path.from_fallback))
        self.num_children.append(0)
        if stop is None:
            return PendingPath(node, ids, more_ids, more_logprobs, path.seed, path.ended)
        self.finished.append(
            FinishedPath(node, stop, self.tree.trajectory(node).sampled_logprobs, self._is_open(response))
        )
        return None

    def _is_too_short(self, response_len: int) -> bool:
        """Whether a trajectory of this length would not count."""
        return response_len < self.shape.min_response_len and self.num_short < self.shape.width

    def _is_open(self, response: np.ndarray) -> bool:
        """Whether a response, if it can be read, holds a box that was never closed."""
        return self.rules.decode is not no_text and has_open_box(self.rules.decode(response.tolist()))

    def _resume(self) -> list[tuple[int, int]]:
        """Where finished trajectories are resumed, and how many children each place gets; empty to give up.

        A tree is not given up before it has a trajectory: then it starts again from its prompt.
        """
        lengths = [f.response_len for f in self.finished]
        shape = self._affordable(float(np.mean(lengths)) if lengths else self.shape.segment_len)
        missing = shape.width - len(self.finished)
        forks = []
        while missing > 0:
            cuts = self.rules.fallback(self.finished, shape, self.rng)
            if cuts is None:
                if self.finished:
                    return []
                cuts = [FROM_PROMPT]
            if not cuts:
                raise StrategyError(f"fallback: {type(self.rules.fallback).__name__} returned no cut")
            for cut in cuts:
                count = min(shape.num_children, missing)
                if count > 0:
                    forks.append((self._cut(cut.leaf, cut.keep), count))
                    self.tree.num_fallbacks += 1
                missing -= count
        return forks

    def _cut(self, leaf: int, keep: int) -> int:
        """The node that ends after `keep` tokens on the way to `leaf`, leaving room for another segment."""
        shape = self.shape
        if not 0 <= leaf < len(self.tree.nodes) or not 0 <= keep < max(self.tree.response_len(leaf), 1):
            raise StrategyError(
                f"fallback: {type(self.rules.fallback).__name__} returned a cut after {keep} tokens of node {leaf}, "
                f"outside the trajectory"
            )
        if shape.num_segments(keep) >= shape.depth:
            keep = shape.boundary(shape.depth - 1)
        known = len(self.tree.nodes)
        node = self.tree.cut(leaf, keep)
        if len(self.tree.nodes) > known:
            self.num_children.append(1)
        return node

    def _next_level(self, forks: list[tuple[int, int]]) -> list[Segment]:
        """The segments to decode next: for each (node, count), `count` children of the node."""
        is_full = len(self.finished) + sum(count for _, count in forks) == self.shape.width
        # A path that may yet end too short to count would leave room for a fork.
        all_count = not any(self._is_too_short(self.tree.response_len(node) + 1) for node, _ in forks)
        self.decode_to_end = is_full and all_count and not self.rules.segment_full_trees
        self.results = {}
        self.segments = [segment for node, count in forks for segment in self._fork(node, count)]
        return self.segments

    def _fork(self, node: int, count: int) -> list[Segment]:
        """The segments below `node`. An only child stays on its parent's random stream; others get their own."""
        shape = self.shape
        prefix = self.tree.ids(node)
        response_len = len(prefix) - len(self.tree.prompt_ids)
        room = shape.room(response_len)
        length = room if self.decode_to_end else min(shape.segment_at(response_len), room)
        first = self.num_children[node]
        self.num_children[node] += count
        seed = self.tree.nodes[node].seed
        if first == 0 and count == 1:
            return [Segment(node, prefix, length, seed)]
        seeds = [derive_seed(seed, response_len, first + i) for i in range(count)]
        return [Segment(node, prefix, length, s) for s in seeds]
