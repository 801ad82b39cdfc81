"""Worlds to grow in: random configurations, scripts with random stop behaviour, and an engine that takes notes."""

import zlib
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from hypothesis import strategies as st

from treepo.data.problem import Problem
from treepo.engine.base import SampleRequest, SampleResult
from treepo.engine.scripted import ScriptedEngine
from treepo.grow.branching import EvenBranching, InitialFork
from treepo.grow.builder import GrowthRules
from treepo.grow.fallback import Backtrack
from treepo.grow.sampler import TreeSampler
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import PathEnd, StopRules
from treepo.tree import StopReason, Tree
from treepo.verify import FinalAnswer

PIECES = ("a", "b", "ab", "1", "\\boxed{", "\\box", "ed{", "}", "{", "\\")
"""What the token ids 0, 1, ... spell; ids above have no text."""

EOS = (len(PIECES), len(PIECES) + 1)
"""Two end-of-sequence tokens."""


def text_of(ids: Sequence[int]) -> str:
    """The text of token ids, without special tokens."""
    return "".join(PIECES[i] for i in ids if i < len(PIECES))


def logprob_of(ids: Sequence[int]) -> float:
    """A made-up log-probability of the last id given all before it."""
    return -(1 + zlib.crc32(np.array(ids, np.int32).tobytes())) / 2**32


ANSWER_RULES = ("answer_and_eos", "answer", "never")
REPETITION_RULES = ("first", "last", "never")
WEIGHTS = (0.0, 0.05, 0.2, 1.0, 5.0)
ALIGNS = (1, 1, 2, 3, 4, 8, 32)
"""Tokens per block: as many as in a segment, fewer or more."""


@dataclass(frozen=True)
class Noise:
    """A script: EOS, a box's opening, its closing, or a repetition with these weights, else a letter."""

    eos: float = 0.0
    opening: float = 0.0
    closing: float = 0.0
    repeat: float = 0.0

    def __call__(self, ids: np.ndarray, seed: int) -> tuple[int, float]:
        last = int(ids[-1]) if ids[-1] < len(PIECES) else 0
        kinds = ((self.eos, EOS), (self.opening, (4, 5, 6)), (self.closing, (7, 8, 9)), (self.repeat, (last,)))
        weights = [*accumulate([weight for weight, _ in kinds] + [1.0])]
        options = [*(tokens for _, tokens in kinds), (0, 1, 2, 3)][bisect(weights, seed / 2**63 * weights[-1])]
        token = options[seed % len(options)]
        return token, logprob_of([*ids, token])


class NotedEngine(ScriptedEngine):
    """A ScriptedEngine that notes its requests, its results and what every step advanced."""

    def __init__(self, script: Callable, eos_ids: tuple[int, ...] = EOS, max_num_seqs: int = 256) -> None:
        super().__init__(script, eos_ids, max_num_seqs)
        self.requests: list[SampleRequest] = []
        self.results: dict[int, SampleResult] = {}
        self.num_under_way: list[int] = []
        self.num_trees: list[int] = []
        self.room_for_trees: list[int] = []
        self.num_advanced: list[int] = []
        self.released: list[int] = []

    def submit(self, request: SampleRequest) -> None:
        assert request.max_new_tokens >= 1
        assert request.request_id == len(self.requests)
        if request.group not in {r.group for r in self.requests}:
            self.room_for_trees.append(self.num_free_slots)
        self.requests.append(request)
        super().submit(request)

    def abort_group(self, group: int) -> None:
        assert all(r.request_id in self.results for r in self.requests if r.group == group), "still under way"
        super().abort_group(group)
        self.released.append(group)

    def step(self) -> list[SampleResult]:
        self.num_under_way.append(len(self.requests) - len(self.results))
        self.num_trees.append(len(self.room_for_trees))
        finished = super().step()
        self.num_advanced.append(len(self.running) + len(finished))
        self.results.update({r.request_id: r for r in finished})
        return finished

    def decoded(self) -> list[tuple[int, ...]]:
        """Per request: what the engine was conditioned on, followed by what it returned."""
        return [(*r.prefix_ids.tolist(), *self.results[r.request_id].token_ids.tolist()) for r in self.requests]


@dataclass(frozen=True)
class NeverEmpty:
    """A stop rule that refuses segments without tokens: a tree that is given them grows forever."""

    inner: StopRules

    def __call__(self, end: PathEnd) -> StopReason | None:
        assert end.segment_ids, f"a segment without tokens after {len(end.response_ids)} tokens"
        return self.inner(end)


@dataclass(frozen=True)
class World:
    """One configuration of everything a tree depends on."""

    shape: TreeShape
    fork: InitialFork = InitialFork()
    stopping: StopRules = StopRules(repetition="never")
    noise: Noise = Noise()
    seed: int = 0
    name: str = "p"

    def rules(self, **changed: object) -> GrowthRules:
        """The sampler's rules, with some of them replaced."""
        usual = {
            "shape": self.shape,
            "initial_fork": self.fork,
            "branching": EvenBranching(),
            "fallback": Backtrack(),
            "stopping": NeverEmpty(self.stopping),
            "decode": text_of,
            "answers": FinalAnswer(),
            "segment_full_trees": True,
        }
        return GrowthRules(**{**usual, **changed})

    def engine(self, max_num_seqs: int = 256) -> NotedEngine:
        """A new engine with this world's script."""
        return NotedEngine(self.noise, max_num_seqs=max_num_seqs)

    def grow(self, engine: ScriptedEngine | None = None, name: str = "", **changed: object) -> Tree:
        """One tree, of the world's problem or another one."""
        sampler = TreeSampler(engine or self.engine(), self.rules(**changed))
        [(_, tree)] = sampler.grow([problem(name or self.name)], self.seed)
        return tree


def problem(name: str) -> Problem:
    """A problem whose prompt depends on its name."""
    return Problem(name, "", tuple(b % 4 for b in name.encode()), "")


def problems(num: int) -> list[Problem]:
    """Problems with different prompts."""
    return [problem(f"p{'x' * (i % 3)}{i}") for i in range(num)]


def same_tree(a: Tree, b: Tree) -> bool:
    """Whether two trees are equal node by node, seeds included."""

    def content(tree: Tree) -> list[tuple]:
        return [
            (
                n.parent,
                n.token_ids.tolist(),
                None if i == 0 else n.sampled_logprobs.tolist(),
                n.seed,
                n.stop,
                n.from_fallback,
            )
            for i, n in enumerate(tree.nodes)
        ]

    return a.problem_id == b.problem_id and content(a) == content(b)


KINDS = ("plain", "plain", "minimum", "budget", "both")
"""Whether a tree has a minimum length of trajectories, a token budget, both or neither."""


def extras(kind: str, seed: int, shape: TreeShape) -> dict[str, int]:
    """Settings of a shape with a minimum length or a token budget, within what is possible."""
    rng = np.random.default_rng(seed)
    limit = shape.max_response_tokens
    shortest = int(rng.integers(1, limit + 1)) if kind in ("minimum", "both") else 1
    settings = {"min_response_len": shortest}
    if kind in ("budget", "both"):
        settings["token_budget"] = int(rng.integers(shortest, shortest + shape.width * limit + 1))
        settings["min_width"] = int(rng.integers(1, shape.width + 1)) if rng.random() < 0.5 else 1
    return settings


def has_its_width(tree: Tree, shape: TreeShape) -> bool:
    """Whether a tree with fallback has exactly `width` leaves, or as many as its token budget buys."""
    lengths = [tree.response_len(leaf) for leaf in tree.leaves()]
    if shape.token_budget is None:
        return len(lengths) == shape.width
    left = shape.token_budget - sum(lengths)
    could_buy_more = left >= np.mean(lengths) and len(lengths) < shape.width
    return shape.min_width <= len(lengths) <= shape.width and not could_buy_more


@st.composite
def shapes(draw: st.DrawFn, max_width: int = 12) -> TreeShape:
    """Small trees, with and without bounds on the response, a token budget and blocks."""
    width, depth, segment_len = draw(st.integers(1, max_width)), draw(st.integers(1, 7)), draw(st.integers(1, 6))
    limit = draw(st.sampled_from([None, None, 0.9, 0.6, 0.0]))
    bound = None if limit is None else max(1, int(limit * depth * segment_len))
    shape = TreeShape(width, depth, segment_len, draw(st.integers(1, 4)), bound)
    shape = replace(shape, align=draw(st.sampled_from(ALIGNS)))
    return replace(shape, **extras(draw(st.sampled_from(KINDS)), draw(st.integers(0, 2**32)), shape))


@st.composite
def drawn_worlds(draw: st.DrawFn, max_width: int = 12) -> World:
    """Any configuration, simple ones first."""
    forks = sorted(draw(st.tuples(st.integers(1, 8), st.integers(1, 8))))
    stopping = StopRules(
        draw(st.sampled_from(ANSWER_RULES)),
        draw(st.sampled_from(REPETITION_RULES)),
        repetition_len=draw(st.integers(1, 4)),
        repetition_count=draw(st.integers(2, 5)),
    )
    noise = Noise(*[draw(st.sampled_from(WEIGHTS)) for _ in range(4)])
    name = "p" * draw(st.integers(1, 9))
    return World(draw(shapes(max_width)), InitialFork(*forks), stopping, noise, draw(st.integers(0, 2**40)), name)


def random_world(seed: int, max_width: int) -> World:
    """A configuration without a liking for simple ones, whose trees branch, end early and fall back."""
    rng = np.random.default_rng(seed)
    low = int(rng.integers(1, 4))
    shape = TreeShape(
        width=int(rng.integers(max_width // 2, max_width + 1)),
        depth=int(rng.integers(3, 9)),
        segment_len=int(rng.integers(2, 7)),
        num_children=int(rng.integers(1, 4)),
    )
    if rng.random() < 0.2:
        shape = replace(shape, max_response_len=int(rng.integers(1, shape.max_response_tokens + 1)))
    shape = replace(shape, **extras(KINDS[rng.integers(len(KINDS))], seed, shape))
    stopping = StopRules(
        ANSWER_RULES[rng.integers(3)],
        REPETITION_RULES[rng.integers(3)],
        repetition_len=int(rng.integers(3, 6)),
        repetition_count=int(rng.integers(2, 5)),
    )
    noise = Noise(*rng.choice([0.1, 0.3, 0.6], 1), *rng.choice([0.5, 1.0, 2.0], 2), rng.choice([0.0, 0.2]))
    fork = InitialFork(low, low + int(rng.choice([0, 1, 5])))
    shape = replace(shape, align=int(rng.choice(ALIGNS)))
    return World(shape, fork, stopping, noise, seed, "p" * int(rng.integers(1, 10)))


def worlds(max_width: int = 12) -> st.SearchStrategy[World]:
    """Simple worlds and eventful ones."""
    eventful = st.integers(0, 2**40).map(lambda seed: random_world(seed, max_width))
    return eventful | drawn_worlds(max_width)
