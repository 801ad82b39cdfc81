"""One tree while it grows: which segments it needs next, and what becomes of those it gets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from treepo.engine import SampleResult
from treepo.grow.branching import Branching, EvenBranching, InitialFork, Level
from treepo.grow.fallback import Fallback, Finished, RandomBoundary
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import Decode, PathEnd, Stopping, StopRules
from treepo.seeds import derive_seed
from treepo.tree import ROOT, Node, Tree


@dataclass(frozen=True)
class Rules:
    """What a tree is grown by."""

    shape: TreeShape
    initial_fork: InitialFork
    branching: Branching
    fallback: Fallback
    stopping: Stopping
    decode: Decode

    @classmethod
    def star(cls, width: int, response_len: int, decode: Decode) -> "Rules":
        """Sequential sampling: `width` independent answers of at most `response_len` tokens per problem."""
        shape = TreeShape(width, depth=1, segment_len=response_len, num_children=width)
        fork = InitialFork(width, width)
        return cls(shape, fork, EvenBranching(), RandomBoundary(), StopRules(repetition="never"), decode)


@dataclass(frozen=True)
class Segment:
    """A segment to decode: what it continues, its longest length and its random stream."""

    parent: int
    prefix_ids: np.ndarray
    max_new_tokens: int
    seed: int


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
        """Whether the tree has all its trajectories."""
        return len(self.finished) == self.rules.shape.width

    def _advance(self) -> list[Segment]:
        """Keep the level's segments as nodes, then fork the active paths or fall back."""
        shape = self.rules.shape
        finished_before = len(self.finished)
        active = [node for i in range(len(self.segments)) if (node := self._grow_node(i)) is not None]
        assert len(self.finished) + len(active) <= shape.width
        if self.done:
            return []
        if not active:
            return self._next_level(self._resume())
        level = Level(shape, len(active), len(self.finished), len(self.finished) - finished_before)
        counts = self.rules.branching(level, self.rng)
        return self._next_level(list(zip(active, counts, strict=True)))

    def _grow_node(self, index: int) -> int | None:
        """Add one decoded segment to the tree; return its node if the path stays active."""
        segment, result = self.segments[index], self.results[index]
        shape = self.rules.shape
        prompt_len = len(self.tree.prompt_ids)
        response = np.concatenate([segment.prefix_ids[prompt_len:], result.token_ids])
        num_segments = -(-len(response) // shape.segment_len)
        end = PathEnd(
            response.tolist(), result.token_ids.tolist(), result.ended, num_segments, shape, self.rules.decode
        )
        stop = self.rules.stopping(end)
        assert stop is not None or not result.ended, "a path that drew EOS went on"
        assert stop is not None or len(response) < shape.response_limit, "a path went on past its longest length"
        node = self.tree.add(Node(segment.parent, result.token_ids, result.logprobs, segment.seed, stop))
        self.num_children.append(0)
        if stop is None:
            return node
        self.finished.append(Finished(node, len(response), stop))
        return None

    def _resume(self) -> list[tuple[int, int]]:
        """Where finished trajectories are resumed, and how many children each place gets."""
        shape = self.rules.shape
        missing = shape.width - len(self.finished)
        forks = []
        while missing > 0:
            cuts = self.rules.fallback(self.finished, shape, self.rng)
            assert cuts, "a fallback names at least one cut"
            for cut in cuts:
                count = min(shape.num_children, missing)
                if count > 0:
                    forks.append((self._cut(cut.leaf, cut.keep), count))
                missing -= count
        return forks

    def _cut(self, leaf: int, keep: int) -> int:
        """The node that ends after `keep` tokens on the way to `leaf`, leaving room for another segment."""
        shape = self.rules.shape
        if -(-keep // shape.segment_len) >= shape.depth:
            keep = shape.segment_len * (shape.depth - 1)
        known = len(self.tree.nodes)
        node = self.tree.cut(leaf, keep)
        if len(self.tree.nodes) > known:
            self.num_children.append(1)
        return node

    def _next_level(self, forks: list[tuple[int, int]]) -> list[Segment]:
        self.results = {}
        self.segments = [segment for node, count in forks for segment in self._fork(node, count)]
        return self.segments

    def _fork(self, node: int, count: int) -> list[Segment]:
        """The segments below `node`. An only child stays on its parent's random stream; others get their own."""
        shape = self.rules.shape
        prefix = self.tree.ids(node)
        response_len = len(prefix) - len(self.tree.prompt_ids)
        length = min(shape.segment_len, shape.response_limit - response_len)
        first = self.num_children[node]
        self.num_children[node] += count
        seed = self.tree.nodes[node].seed
        if first == 0 and count == 1:
            return [Segment(node, prefix, length, seed)]
        seeds = [derive_seed(seed, response_len, first + i) for i in range(count)]
        return [Segment(node, prefix, length, s) for s in seeds]
