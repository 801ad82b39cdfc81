"""Whole trees, in random worlds: against the reference, and by what must hold of every tree."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.grow import reference
from tests.grow.scripts import (
    EOS,
    Noise,
    NotedEngine,
    World,
    has_its_width,
    logprob_of,
    problem,
    problems,
    random_world,
    same_tree,
    shapes,
    text_of,
    worlds,
)
from treepo.engine.scripted import ScriptedEngine
from treepo.grow.branching import EvenBranching, InitialFork, Level
from treepo.grow.fallback import Backtrack, BacktrackPoint, FinishedPath
from treepo.grow.sampler import TreeSampler
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import StopRules as Stops
from treepo.tree import ROOT, StopReason, Tree
from treepo.utils.numeric import derive_seed

pytestmark = pytest.mark.quick

many = settings(max_examples=700, deadline=None)
some = settings(max_examples=250, deadline=None)


@dataclass
class NotedFork:
    """An initial fork that takes notes."""

    inner: InitialFork
    drawn: list[int] = field(default_factory=list)

    def __call__(self, shape: TreeShape, rng: np.random.Generator) -> int:
        self.drawn.append(self.inner(shape, rng))
        return self.drawn[-1]


@dataclass
class NotedBranching:
    """Even branching that takes notes."""

    levels: list[Level] = field(default_factory=list)
    shares: list[list[int]] = field(default_factory=list)

    def __call__(self, level: Level, rng: np.random.Generator) -> list[int]:
        self.levels.append(level)
        self.shares.append(EvenBranching()(level, rng))
        return self.shares[-1]


@dataclass(frozen=True)
class AnyToken:
    """A fallback to any token of any trajectory but its last one, at a boundary or not."""

    def __call__(
        self, finished: Sequence[FinishedPath], shape: TreeShape, rng: np.random.Generator
    ) -> list[BacktrackPoint]:
        return [
            BacktrackPoint(finished[i].leaf, int(rng.integers(finished[i].response_len)))
            for i in rng.permutation(len(finished))
        ] or [BacktrackPoint(ROOT, 0)]


@dataclass
class NotedFallback:
    """A fallback that takes notes: (which finished trajectory, tokens kept)."""

    inner: Backtrack | AnyToken
    cuts: list[list[tuple[int, int]]] = field(default_factory=list)

    def __call__(
        self, finished: Sequence[FinishedPath], shape: TreeShape, rng: np.random.Generator
    ) -> list[BacktrackPoint]:
        cuts = self.inner(finished, shape, rng)
        leaves = [f.leaf for f in finished]
        self.cuts.append([(leaves.index(c.leaf) if c.leaf != ROOT else 0, c.num_kept) for c in cuts])
        return cuts


def reference_settings(world: World) -> reference.Settings:
    """The reference's settings for the tree of a world's problem."""
    shape, stops = world.shape, world.stopping
    return reference.Settings(
        shape.width,
        shape.depth,
        shape.segment_len,
        shape.num_children,
        shape.max_response_len,
        shape.min_response_len,
        shape.token_budget,
        shape.min_width,
        stops.answer,
        stops.repetition,
        stops.repetition_len,
        stops.repetition_count,
        text_of,
        len(problem(world.name).prompt_ids),
        shape.align,
    )


def boundaries_of(world: World, tree: Tree) -> list[int]:
    """Response tokens at which a segment of the tree may begin; they depend on the initial fork that was drawn."""
    num_first = world.fork(world.shape, np.random.default_rng(derive_seed(tree.nodes[ROOT].seed, "choices")))
    return replace(reference_settings(world), num_first=num_first).boundaries


def responses(tree: Tree) -> list[tuple[list[int], str]]:
    """Per leaf its response and why it ended."""
    return [(t.token_ids.tolist(), str(t.stop)) for t in tree.trajectories()]


def assert_conditioned(tree: Tree, engine: NotedEngine, decoded: list[tuple[int, ...]]) -> None:
    """Each trajectory is what the engine was conditioned on, followed by what it then returned."""
    left = Counter(decoded)
    for leaf in tree.leaves():
        ids = tuple(tree.ids(leaf).tolist())
        assert left[ids] > 0, "a trajectory that the engine did not decode"
        left[ids] -= 1
        given_ids = len(tree.prompt_ids)
        expected = [logprob_of(ids[: i + 1]) for i in range(given_ids, len(ids))]
        assert tree.trajectory(leaf).sampled_logprobs.tolist() == np.array(expected, np.float32).tolist()


@many
@given(worlds())
def test_equals_the_reference(world: World) -> None:
    """Given the same chance, the slow reference asks for the same segments and ends with the same trajectories."""
    check_against_reference(world, Backtrack())


@some
@given(worlds())
def test_equals_the_reference_with_cuts_at_any_token(world: World) -> None:
    """The same where fallbacks split segments and may have to make room for another one."""
    check_against_reference(world, AnyToken())


@pytest.mark.parametrize("kind", [Backtrack(), AnyToken()])
def test_equals_the_reference_in_eventful_worlds(kind: Backtrack | AnyToken) -> None:
    """The same in 300 worlds whose trees branch, end early and fall back for every reason there is."""
    for seed in range(300):
        check_against_reference(random_world(seed, 16), kind)


def check_against_reference(world: World, kind: Backtrack | AnyToken) -> None:
    """Grow, then replay the sampler's choices and segments in the reference."""
    engine = world.engine()
    fork, branching, fallback = NotedFork(world.fork), NotedBranching(), NotedFallback(kind)
    tree = world.grow(engine, initial_fork=fork, branching=branching, fallback=fallback)
    prompt_len = len(tree.prompt_ids)
    replay = reference.Replay(
        fork.drawn[0],
        (world.fork.low, world.fork.high),
        branching.shares,
        fallback.cuts,
        [
            (r.prefix_ids[prompt_len:].tolist(), r.max_new_tokens, result.token_ids.tolist(), result.ended)
            for r in engine.requests
            for result in [engine.results[r.request_id]]
        ],
        at_boundaries=isinstance(kind, Backtrack),
    )
    finished, levels = reference.grow(reference_settings(world), replay.decode, replay)
    replay.assert_used_up()
    assert Counter((tuple(ids), stop) for ids, stop in finished) == Counter(
        (tuple(ids), stop) for ids, stop in responses(tree)
    )
    if isinstance(kind, Backtrack):
        assert finished == responses(tree), "without splits, leaves are numbered in the order in which they end"
    assert [(n.num_active, n.num_finished) for n in branching.levels] == [(a, f) for _, a, f in levels if a]
    assert len(fork.drawn) == 1
    assert_conditioned(tree, engine, engine.decoded())


def test_what_holds_of_every_eventful_tree() -> None:
    """Width, lengths, depths, numbers of children and distinct seeds, in 300 worlds."""
    for seed in range(300):
        check_invariants(random_world(seed, 20))


@many
@given(worlds(max_width=20))
def test_what_holds_of_every_tree(world: World) -> None:
    """The same in simple worlds and odd ones."""
    check_invariants(world)


def check_invariants(world: World) -> None:
    """Everything that holds of a tree grown with fallbacks to boundaries."""
    shape, engine = world.shape, world.engine()
    tree = world.grow(engine)
    boundaries = boundaries_of(world, tree)
    assert has_its_width(tree, shape)
    num_short = sum(tree.response_len(leaf) < shape.min_response_len for leaf in tree.leaves())
    assert num_short == 0 or tree.num_dropped >= shape.width, "short ones count only when as many were dropped"
    for t in tree.trajectories():
        assert 1 <= len(t.token_ids) <= shape.max_response_tokens
        assert [0, *map(tree.response_len, t.nodes[:-1])] == [b for b in boundaries if b < len(t.token_ids)]
        assert len(t.nodes) <= shape.depth
        assert not set(t.token_ids[:-1].tolist()) & set(EOS), "decoding ran past EOS"
        ended = t.token_ids[-1] in EOS
        assert not ended or t.stop in (StopReason.ANSWER, StopReason.EOS, StopReason.REPETITION)
    for index, below in enumerate(tree.children()):
        assert (len(below) == 0) == (tree.nodes[index].stop is not None)
        seeds = [tree.nodes[i].seed for i in below]
        assert len(set(seeds)) == len(seeds), "siblings on one random stream"
    assert tree.num_decoded() == sum(len(r.token_ids) for r in engine.results.values())
    assert len(tree.nodes) == 1 + len(engine.requests) or (tree.num_dropped and len(tree.nodes) <= len(engine.requests))
    assert tree.num_dropped == 0 or shape.min_response_len > 1
    pairs = [(r.seed, len(r.prefix_ids)) for r in engine.requests]
    assert len(set(pairs)) == len(pairs), "two segments drew the same random numbers"


@some
@given(worlds())
def test_fallback_resumes_at_segment_boundaries_of_complete_trajectories(world: World) -> None:
    """Cuts lie strictly before the end of what ended with an answer or EOS, or at the prompt when nothing did."""
    seen: list[tuple[list[FinishedPath], list[BacktrackPoint]]] = []

    def fallback(finished: Sequence[FinishedPath], shape: TreeShape, rng: np.random.Generator) -> list[BacktrackPoint]:
        seen.append((list(finished), Backtrack()(finished, shape, rng)))
        return seen[-1][1]

    # Without a minimum length nothing is pruned, and the fallback's leaves are those of the finished tree.
    world = replace(world, shape=replace(world.shape, min_response_len=1))
    tree = world.grow(fallback=fallback)
    for finished, cuts in seen:
        complete = {f.leaf: f for f in finished if f.stop in (StopReason.ANSWER, StopReason.EOS)}
        for f in finished:
            assert (tree.response_len(f.leaf), tree.nodes[f.leaf].stop) == (f.response_len, f.stop)
        if not complete:
            assert [c.num_kept for c in cuts] == [0]
            continue
        for cut in cuts:
            assert cut.leaf in complete
            assert cut.num_kept in boundaries_of(world, tree)
            assert cut.num_kept < complete[cut.leaf].response_len


def test_a_trajectory_is_what_the_engine_was_conditioned_on() -> None:
    """Fault of the authors' release: after a fallback the model went on from the old, longer prefix."""
    world = World(TreeShape(12, 6, 3, 1), noise=Noise(eos=0.2))
    num_resumed = 0
    for seed in range(40):
        engine = world.engine()
        fallback = NotedFallback(AnyToken() if seed % 2 else Backtrack())
        tree = replace(world, seed=seed).grow(engine, fallback=fallback)
        num_resumed += sum(keep > 0 for cuts in fallback.cuts for _, keep in cuts)
        assert_conditioned(tree, engine, engine.decoded())
        nodes = Counter(tuple(tree.ids(i).tolist()) for i in range(1, len(tree.nodes)))
        assert not Counter(engine.decoded()) - nodes, "the engine decoded what the tree does not hold"
    assert num_resumed > 100


@pytest.mark.parametrize(
    ("shape", "fork", "expected"),
    [
        (TreeShape(16, 6, 2, 2), 2, [2, 4, 8, 16, 16, 16]),
        (TreeShape(16, 4, 2, 3), 2, [2, 6, 16, 16]),
        (TreeShape(16, 3, 2, 4), 5, [5, 16, 16]),
        (TreeShape(5, 5, 2, 2), 2, [2, 4, 5, 5, 5]),
        (TreeShape(3, 2, 2, 2), 8, [3, 3]),
        (TreeShape(1, 3, 2, 4), 2, [1, 1, 1]),
    ],
)
def test_paths_per_level_when_nothing_stops_early(shape: TreeShape, fork: int, expected: list[int]) -> None:
    """With w = 16, b = 2 and k0 = 2 there are 2, 4, 8, 16, 16, ... active paths."""
    engine = World(shape).engine()
    tree = World(shape).grow(engine, initial_fork=InitialFork(fork, fork))
    by_length = Counter(len(r.prefix_ids) for r in engine.requests)
    assert [by_length[length] for length in sorted(by_length)] == expected
    assert {t.stop for t in tree.trajectories()} == {StopReason.DEPTH}


def test_without_branching_every_new_leaf_is_a_fallback() -> None:
    """b = 1 from a single path: one chain, then one resumed trajectory for each further leaf, exactly."""
    world = World(TreeShape(6, 4, 2, 1), InitialFork(1, 1), noise=Noise(eos=0.4))
    for seed in range(30):
        fallback = NotedFallback(Backtrack())
        tree = replace(world, seed=seed).grow(fallback=fallback)
        forks = sum(len(below) - 1 for below in tree.children() if below)
        assert forks == 5
        assert sum(len(cuts) for cuts in fallback.cuts) >= 5


@some
@given(worlds(), st.integers(1, 4), st.randoms(use_true_random=False))
def test_trees_do_not_depend_on_scheduling(world: World, num: int, shuffler: random.Random) -> None:
    """Same trees for every engine batch, every order of problems and any company."""
    asked = problems(num)
    alone = {p.id: next(TreeSampler(world.engine(), world.rules()).grow([p], world.seed))[1] for p in asked}
    for max_num_seqs in (1, 256):
        company = [*asked, *(problem(f"other{i}") for i in range(shuffler.randrange(3)))]
        shuffler.shuffle(company)
        grown = list(TreeSampler(world.engine(max_num_seqs), world.rules()).grow(company, world.seed))
        assert sorted(position for position, _ in grown) == list(range(len(company)))
        for position, tree in grown:
            assert tree.problem_id == company[position].id
            assert tuple(tree.prompt_ids.tolist()) == company[position].prompt_ids
            if tree.problem_id in alone:
                assert same_tree(tree, alone[tree.problem_id])


def test_no_chance_comes_from_the_global_generators() -> None:
    """Fault of the authors' release: Python's and numpy's global generators decided, unseeded."""
    for seed in range(60):
        trees = []
        for global_seed in (1, 2):
            random.seed(global_seed)
            np.random.seed(global_seed)
            before = random.getstate(), np.random.get_state()[1].tolist()
            trees.append(random_world(seed, 12).grow())
            assert before == (random.getstate(), np.random.get_state()[1].tolist())
        assert same_tree(*trees)


def test_another_seed_grows_another_tree() -> None:
    """The seed is not ignored."""
    world = World(TreeShape(12, 4, 3, 3))
    assert not same_tree(world.grow(), replace(world, seed=1).grow())


def test_a_problem_asked_twice_grows_two_different_trees() -> None:
    """Copies in one batch are independent, and the first is the tree that grows alone."""
    world = World(TreeShape(4, 3, 4, 2))
    grown = dict(TreeSampler(world.engine(), world.rules()).grow([problem("p"), problem("p")], 0))
    assert not same_tree(grown[0], grown[1])
    assert same_tree(grown[0], world.grow())


@some
@given(shapes(), st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 2**40), st.sampled_from([1, 2, 3, 5]))
def test_a_path_that_does_not_fork_is_the_same_in_any_segments(
    shape: TreeShape, eos: float, seed: int, factor: int
) -> None:
    """Short segments continue their parent's stream: they equal long ones, and sequential sampling, exactly."""
    depth, length = shape.depth * factor, shape.segment_len
    short = TreeShape(shape.width, depth, length, shape.num_children, shape.max_response_len)
    long = TreeShape(shape.width, shape.depth, length * factor, shape.num_children, shape.max_response_len)
    sequential = TreeShape(shape.width, 1, short.max_response_tokens, shape.width)
    fork = InitialFork(shape.width, shape.width)
    worlds_of = [World(s, fork, noise=Noise(eos=eos, opening=0.5), seed=seed) for s in (short, long, sequential)]
    trees = [world.grow() for world in worlds_of]
    expected = sorted(t.token_ids.tolist() for t in trees[0].trajectories())
    for tree in trees[1:]:
        assert sorted(t.token_ids.tolist() for t in tree.trajectories()) == expected


def test_a_chain_of_segments_of_8_equals_one_of_16() -> None:
    """Nothing forks, so where segments end leaves no trace in the tokens."""
    tokens = [
        World(TreeShape(1, 64 // length, length, 2), InitialFork(1, 1)).grow().trajectories()[0].token_ids.tolist()
        for length in (8, 16)
    ]
    assert len(tokens[0]) == 64
    assert tokens[0] == tokens[1]
    assert len(set(map(tuple, np.reshape(tokens[0], (8, 8)).tolist()))) == 8, "segments repeat their random numbers"


def test_a_star_is_sequential_sampling() -> None:
    """A fork at the root and one segment: independent samples of the whole response, from the prompt only."""
    world = World(TreeShape(6, 1, 40, 6), InitialFork(6, 6), noise=Noise(eos=0.1))
    engine = world.engine()
    tree = world.grow(engine)
    assert [r.prefix_ids.tolist() for r in engine.requests] == [tree.prompt_ids.tolist()] * 6
    assert [r.max_new_tokens for r in engine.requests] == [40] * 6
    assert tree.children()[ROOT] == tree.leaves()
    for t in tree.trajectories():
        assert (t.stop == StopReason.EOS) == (t.token_ids[-1] in EOS)
        assert t.stop == StopReason.EOS or len(t.token_ids) == 40


@dataclass(frozen=True)
class EndsAt:
    """A script that writes EOS as response token number `length[prompt]`; prompts are one token long."""

    lengths: tuple[int, ...]

    def __call__(self, ids: np.ndarray, seed: int) -> tuple[int, float]:
        return (EOS[seed % 2] if len(ids) == self.lengths[ids[0]] else 3), -1.0


def steps_at_yield(world: World, asked: list, engine: NotedEngine) -> Iterator[tuple[int, int]]:
    """(position, engine steps so far) as trees finish."""
    for position, _ in TreeSampler(engine, world.rules()).grow(asked, world.seed):
        yield position, len(engine.num_advanced)


@some
@given(worlds(), st.integers(2, 5))
def test_no_tree_waits_for_another(world: World, num: int) -> None:
    """Fault of the authors' release: one barrier per segment across all queries.

    With room for all, every tree is finished after as many engine steps as it takes alone, and the engine's steps
    are those of the slowest tree.
    """
    asked = problems(num)
    alone = [next(steps_at_yield(world, [p], world.engine(10_000)))[1] for p in asked]
    together = dict(steps_at_yield(world, asked, engine := world.engine(10_000)))
    assert [together[i] for i in range(num)] == alone
    assert len(engine.num_advanced) == max(alone)


@some
@given(worlds(), st.integers(2, 5), st.sampled_from([1, 3, 8]))
def test_the_engine_never_waits(world: World, num: int, max_num_seqs: int) -> None:
    """While a tree waits to be planted the batch is full; a step advances all requests that are, or a full batch."""
    engine = world.engine(max_num_seqs)
    list(TreeSampler(engine, world.rules()).grow(problems(num), world.seed))
    assert engine.num_advanced == [min(max_num_seqs, n) for n in engine.num_under_way]
    for num_under_way, num_trees in zip(engine.num_under_way, engine.num_trees, strict=True):
        assert num_under_way >= max_num_seqs or num_trees == num


@some
@given(worlds(), st.integers(2, 6), st.sampled_from([1, 3, 8]))
def test_trees_under_way_come_before_new_ones(world: World, num: int, max_num_seqs: int) -> None:
    """A tree is planted only where the batch has room; each is forgotten by the engine as soon as it is finished."""
    engine = world.engine(max_num_seqs)
    for num_finished, (position, _) in enumerate(TreeSampler(engine, world.rules()).grow(problems(num), world.seed)):
        assert len(engine.released) == num_finished + 1
        assert engine.released[-1] == position
    assert len(engine.room_for_trees) == num
    assert all(room > 0 for room in engine.room_for_trees)


def test_no_more_trees_grow_than_the_engine_can_remember() -> None:
    """Trees of 14 segments of 4 tokens: 120 tokens hold two of them, 50 none, and then one grows at a time."""

    class Forgetful(NotedEngine):
        kv_cache_tokens = 120

    world = World(TreeShape(4, 4, 4), InitialFork(2, 2))
    for num_tokens, most in ((120, 2), (50, 1), (10_000, 9)):
        engine = Forgetful(world.noise)
        Forgetful.kv_cache_tokens = num_tokens
        growing = []
        for num_finished, _ in enumerate(TreeSampler(engine, world.rules()).grow(problems(9), 0), 1):
            growing.append(len(engine.room_for_trees) - num_finished + 1)
        assert max(growing) == most


def test_a_short_tree_is_finished_while_a_slow_one_runs() -> None:
    """The lower bound in engine steps: one per token of each tree's longest path."""
    asked = [replace(problem("p"), id=str(i), prompt_ids=(i,)) for i in range(2)]
    world = World(TreeShape(4, 8, 8, 2), InitialFork(4, 4))
    engine = NotedEngine(EndsAt((60, 5)))
    assert list(steps_at_yield(world, asked, engine)) == [(1, 5), (0, 60)]
    assert engine.num_advanced == [8] * 5 + [4] * 55


def test_eos_as_the_first_token_of_a_segment_ends_the_path() -> None:
    """Fault of the authors' release: an EOS that is a segment's first token was missed."""
    world = World(TreeShape(2, 4, 4, 2))
    tree = world.grow(ScriptedEngine(EndsAt((5,) * 4), EOS), name="\x00")
    assert [t.stop for t in tree.trajectories()] == [StopReason.EOS] * 2
    assert [len(t.token_ids) for t in tree.trajectories()] == [5, 5]
    assert [len(tree.nodes[leaf].token_ids) for leaf in tree.leaves()] == [1, 1]


def test_each_of_several_eos_ids_ends_a_path() -> None:
    """Fault of the authors' release: a list of EOS ids never matched."""
    lasts = Counter()
    for seed in range(10):
        tree = World(TreeShape(4, 3, 4, 2), noise=Noise(eos=1.0), seed=seed).grow()
        lasts += Counter(t.token_ids[-1] for t in tree.trajectories() if t.stop == StopReason.EOS)
    assert all(lasts[eos] > 5 for eos in EOS)


def test_a_box_across_two_segments_is_an_answer() -> None:
    r"""Fault of the authors' release: a box that straddles two segments was missed."""
    text = ["a", "a", "\\box", "ed{", "1", "}"]
    ids = [("a", "b", "ab", "1", "\\boxed{", "\\box", "ed{", "}").index(piece) for piece in text]
    world = World(TreeShape(2, 5, 4, 2), InitialFork(2, 2))
    for answer, length in (("answer", 6), ("answer_and_eos", 7)):

        def script(prefix: np.ndarray, seed: int) -> tuple[int, float]:
            return [*ids, EOS[0]][len(prefix) - 1], -1.0

        # A closed box is looked for where a segment ends, so the box-alone rule needs the segment to end with it.
        shape = TreeShape(2, 5, 4 if answer == "answer_and_eos" else 3, 2)
        engine = ScriptedEngine(script, EOS)
        tree = replace(world, shape=shape, stopping=Stops(answer)).grow(engine, "p")
        assert [t.stop for t in tree.trajectories()] == [StopReason.ANSWER] * 2
        assert [len(t.token_ids) for t in tree.trajectories()] == [length] * 2


def test_more_initial_divergence_reaches_the_tree() -> None:
    """Fault of the authors' release: an initial divergence of 2..8 could not be switched on."""
    world = World(TreeShape(8, 3, 2, 2), InitialFork(2, 8))
    forks = Counter(len(replace(world, seed=seed).grow().children()[ROOT]) for seed in range(700))
    assert sorted(forks) == [2, 3, 4, 5, 6, 7, 8]
    assert all(abs(n - 100) < 5 * np.sqrt(700 * 6 / 49) for n in forks.values())


def test_the_first_fallback_works_with_the_default_window() -> None:
    """Fault of the authors' release: a fallback window of -1, which stands for a segment, crashed the first one."""
    world = World(TreeShape(8, 8, 2, 2), noise=Noise(eos=100.0))
    fallback = NotedFallback(Backtrack())
    tree = world.grow(fallback=fallback)
    assert fallback.cuts
    assert len(tree.leaves()) == 8


def test_statistics_equal_those_of_a_reference_with_its_own_dice() -> None:
    """Tokens per tree, segments per tree, lengths and stop reasons agree with growing by independent random numbers."""
    world = World(TreeShape(10, 6, 3, 1), InitialFork(1, 4), Stops("answer"), Noise(0.25, 0.3, 0.8))
    num = 400
    rng = np.random.default_rng(5)
    samples: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))

    def note(side: int, num_tokens: int, num_segments: int, trajectories: list[tuple[list[int], str]]) -> None:
        samples["tokens"][side].append(num_tokens)
        samples["segments"][side].append(num_segments)
        samples["length"][side].append(np.mean([len(ids) for ids, _ in trajectories]))
        for stop in ("answer", "eos", "depth"):
            samples[stop][side].append(np.mean([reason == stop for _, reason in trajectories]))

    for _, tree in TreeSampler(world.engine(), world.rules()).grow(problems(num), 0):
        note(0, tree.num_decoded(), len(tree.nodes) - 1, responses(tree))
    for _ in range(num):
        segments: list[list[int]] = []

        def decode(prefix: list[int], max_new_tokens: int, segments: list = segments) -> tuple[list[int], bool]:
            segment: list[int] = []
            while len(segment) < max_new_tokens and not set(segment) & set(EOS):
                segment.append(world.noise(np.array([0, *prefix, *segment]), int(rng.integers(2**63)))[0])
            segments.append(segment)
            return segment, segment[-1] in EOS

        finished, _ = reference.grow(
            reference_settings(world), decode, reference.Dice(rng, world.fork.low, world.fork.high)
        )
        note(1, sum(map(len, segments)), len(segments), finished)
    for name, (ours, theirs) in samples.items():
        error = np.sqrt((np.var(ours) + np.var(theirs)) / num)
        assert abs(np.mean(ours) - np.mean(theirs)) < 4 * error, name
