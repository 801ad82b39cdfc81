"""Trees over several turns: environments fork where paths do, and every path is an episode of its own."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.envs.games import AsyncGame, Erratic, Game, Plain, Sleeping
from tests.grow.scripts import EOS, PIECES, NotedEngine, World, problem, problems, text_of, worlds
from treepo.engine.scripted import ScriptedEngine
from treepo.envs.base import CopyFork, Message, Turn, as_messages
from treepo.errors import EnvironmentFailedError, StrategyError
from treepo.grow.branching import InitialFork, LogprobBranching, RandomBranching
from treepo.grow.fallback import Backtrack, NoFallback
from treepo.grow.sampler import TreeSampler
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import StopRules
from treepo.grow.turns import TurnRules
from treepo.tree import ROOT, StopReason, Tree

pytestmark = pytest.mark.quick

GLUE = 20
"""The token that begins a reply; it has no text."""


class Letters:
    """A chat whose messages are spelled in pieces; a reply begins with a token of its own."""

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        return [PIECES.index(c) for m in messages for c in m["content"]]

    def reply_ids(self, history: Sequence[Message], messages: Sequence[Message], last_id: int) -> list[int]:
        assert last_id in EOS and history
        return [GLUE, *self.prompt_ids(messages)]

    def history_warning(self, messages: Sequence[Message]) -> str:
        return ""


def turns(factory: Callable[[], Any], **settings: Any) -> TurnRules:
    return TurnRules(**{"factory": factory, "chat": Letters(), "max_turns": 4, "num_workers": 4, **settings})


def grown(world: World, rules: TurnRules, engine: NotedEngine | None = None, **changed: Any) -> Tree:
    """The one tree of a world whose EOS ends a turn."""
    return world.grow(engine, turns=rules, **changed)


def contents(tree: Tree) -> list[tuple]:
    """All that there is to a tree, but for the numbers of its nodes: each node by its path, sorted."""
    paths = [[tree.nodes[i] for i in tree.path(index)] for index in range(len(tree.nodes))]
    return sorted(
        tuple(
            (n.token_ids.tolist(), n.seed, str(n.stop), n.observed, repr(n.reward), n.from_fallback, scores(n))
            for n in path
        )
        for path in paths
    )


def scores(node: Any) -> list[float]:
    return [] if node.sampled_logprobs is None else node.sampled_logprobs.tolist()


def turn_texts(tree: Tree, leaf: int) -> list[tuple[str, int]]:
    """(text, last node) of each turn on a path."""
    texts: list[tuple[list[int], int]] = [([], ROOT)]
    for i in tree.path(leaf)[1:]:
        if tree.nodes[i].observed:
            texts.append(([], i))
        else:
            texts[-1] = ([*texts[-1][0], *tree.nodes[i].token_ids.tolist()], i)
    return [(text_of(ids), node) for ids, node in texts]


def check_episode(tree: Tree, leaf: int, make: Callable[[], Game], name: str, max_turns: int) -> None:
    """What a path observed is what an environment that never forked says to the same texts."""
    game, stop = make(), tree.nodes[leaf].stop
    assert tree.prompt_ids.tolist() == Letters().prompt_ids(as_messages(game.reset(problem(name))))
    replies = [i for i in tree.path(leaf) if tree.nodes[i].observed]
    texts = turn_texts(tree, leaf)
    assert len(texts) == len(replies) + 1 <= max_turns
    for (text, _), reply in zip(texts, replies, strict=False):
        turn = game.step(text)
        assert not turn.done
        assert tree.nodes[reply].reward == turn.reward
        assert tree.nodes[reply].token_ids.tolist() == [GLUE, *Letters().prompt_ids(turn.messages)]
    has_ended = tree.nodes[leaf].token_ids[-1] in EOS
    last = None
    if has_ended and stop not in {StopReason.REPETITION, StopReason.ANSWER, StopReason.ENV_TIMEOUT}:
        try:
            last = game.step(texts[-1][0])
        except RuntimeError:
            assert stop is StopReason.ENV_ERROR
            return
        assert tree.nodes[leaf].reward == last.reward
        assert last.done == (stop is StopReason.ENV_DONE)
        if stop is StopReason.TURNS:
            assert len(texts) == max_turns
    assert (stop in {StopReason.ENV_DONE, StopReason.TURNS}) <= has_ended
    assert stop not in {StopReason.EOS, StopReason.ENV_ERROR}


@given(worlds(), st.sampled_from([1, 2, 3, 7, 1000]), st.sampled_from([0.0, 0.0, 0.2]), st.integers(1, 5), st.data())
@settings(deadline=None, max_examples=150)
def test_every_path_is_an_episode(world: World, modulus: int, error: float, max_turns: int, data: Any) -> None:
    """Forked equals replayed, whatever the shape and the settings; ids on paths are what the engine was given; every
    environment is closed once, and none is used after that."""
    made: list[Game] = []
    cut = data.draw(st.sampled_from(["boundary", "turn", "unlikely_token"]))
    branching = data.draw(st.sampled_from([RandomBranching(1, 3), LogprobBranching()]))
    fallback = data.draw(st.sampled_from([Backtrack(order="all", cut=cut), NoFallback()]))
    engine = world.engine()
    rules = turns(lambda: Game(modulus, error, made=made), max_turns=max_turns)
    tree = grown(world, rules, engine, branching=branching, fallback=fallback)
    for leaf in tree.leaves():
        check_episode(tree, leaf, lambda: Game(modulus, error), world.name, max_turns)
    assert all(game.num_closed == 1 for game in made)
    check_ids(tree, engine)
    if isinstance(fallback, Backtrack) and world.shape.token_budget is None:
        assert len(tree.leaves()) == world.shape.width
    assert max(tree.response_lens()) <= world.shape.max_response_tokens


def check_ids(tree: Tree, engine: NotedEngine) -> None:
    """Every sampled token lies behind ids that the engine was given, or had sampled behind them."""
    asked = {len(r.prefix_ids): set() for r in engine.requests}
    for request in engine.requests:
        result = engine.results[request.request_id].token_ids.tolist()
        asked[len(request.prefix_ids)].add((*request.prefix_ids.tolist(), *result))
    known = {ids[:n] for start, every in asked.items() for ids in every for n in range(start + 1, len(ids) + 1)}
    for i, node in enumerate(tree.nodes):
        if i != ROOT and not node.observed:
            ids = tree.ids(i).tolist()
            assert all(tuple(ids[: len(ids) - k]) in known for k in range(len(node.token_ids)))


@given(worlds(max_width=8), st.sampled_from([2, 3, 7]), st.booleans())
@settings(deadline=None, max_examples=60)
def test_trees_depend_on_neither_the_schedule_nor_how_environments_fork(
    world: World, modulus: int, is_segmented: bool
) -> None:
    """One request at a time or many, one thread or several, by copy, by replay, as coroutines, decoded segment by
    segment or turn by turn: the same tree."""
    wanted = contents(grown(world, turns(lambda: Game(modulus))))
    others = (lambda: Game(modulus), lambda: Plain(modulus=modulus), lambda: AsyncGame(modulus))
    for make in others:
        rules = turns(make, num_workers=1)
        tree = grown(world, rules, world.engine(max_num_seqs=1), segment_full_trees=is_segmented)
        assert contents(tree) == wanted


class OneTurn(CopyFork):
    """Ends with the first turn."""

    def reset(self, problem: Any) -> None:
        return None

    def step(self, assistant_text: str) -> Turn:
        return Turn(done=True)


@given(worlds(), st.booleans())
@settings(deadline=None, max_examples=60)
def test_one_turn_is_a_tree_without_environments(world: World, is_segmented: bool) -> None:
    check_one_turn(world, is_segmented)


def check_one_turn(world: World, is_segmented: bool) -> None:
    """The same tree but for the name of the reason, where no rule looks for answers."""
    shape = replace(world.shape, min_response_len=1)
    world = replace(world, shape=shape, stopping=replace(world.stopping, answer="never", repetition="first"))
    plain = world.grow(segment_full_trees=is_segmented)
    tree = grown(world, turns(OneTurn), segment_full_trees=is_segmented)
    assert not tree.has_observed
    for a, b in zip(plain.nodes, tree.nodes, strict=True):
        at_the_end = {StopReason.EOS: StopReason.ENV_DONE, StopReason.LENGTH: b.stop, StopReason.DEPTH: b.stop}
        assert a.token_ids.tolist() == b.token_ids.tolist() and a.seed == b.seed and a.parent == b.parent
        assert b.stop == at_the_end.get(a.stop, a.stop)


SHAPE = TreeShape(width=4, depth=6, segment_len=4, num_children=2)
LIVELY = World(SHAPE, InitialFork(2, 2), StopRules("never", "never"))


def lively(**weights: float) -> World:
    """A world whose turns end soon."""
    return replace(LIVELY, noise=replace(LIVELY.noise, **{"eos": 2.0, **weights}))


def test_an_environment_that_does_not_repeat_itself_ends_its_path() -> None:
    tree = grown(replace(lively(), shape=replace(SHAPE, width=8)), turns(Erratic, max_turns=3))
    stops = {str(tree.nodes[leaf].stop) for leaf in tree.leaves()}
    assert "env_diverged" in stops


def test_a_step_without_end_ends_its_path_and_no_other() -> None:
    """The time limit ends the path; the tree, and others, go on."""
    release = threading.Event()
    world = replace(lively(), shape=replace(SHAPE, width=8))
    rules = turns(lambda: Game(7, hang=0.2, release=release), timeout_s=0.15, num_workers=4)
    tree = grown(world, rules)
    release.set()
    stops = [tree.nodes[leaf].stop for leaf in tree.leaves()]
    assert StopReason.ENV_TIMEOUT in stops and len(set(stops)) > 1
    assert len(stops) == 8


def test_slow_environments_hold_up_no_other_tree() -> None:
    """While those of one tree sleep, the engine decodes the others: they finish first."""

    class SlowFor(Sleeping):
        def reset(self, problem: Any) -> str:
            self.seconds = 0.3 if problem.id == "p0" else 0.0
            return "a"

    sampler = TreeSampler(lively().engine(), lively().rules(turns=turns(lambda: SlowFor(0.0))))
    order = [position for position, _ in sampler.grow(problems(6), seed=1)]
    assert sorted(order) == list(range(6)) and order[-1] == 0


def test_a_reply_that_leaves_no_room_ends_its_path() -> None:
    rules = turns(lambda: Game(1000), max_turns=50, max_observed_tokens=10)
    tree = grown(lively(), rules)
    assert all(tree.trajectory(leaf).observed.sum() <= 10 for leaf in tree.leaves())
    assert any(tree.nodes[leaf].stop is StopReason.LENGTH for leaf in tree.leaves())


class Talkative(CopyFork):
    """Answers each turn with 30 letters."""

    def reset(self, problem: Any) -> str:
        return "a"

    def step(self, assistant_text: str) -> Turn:
        return Turn("ab" * 15)


def test_what_environments_write_has_room_in_the_cache() -> None:
    """Only decoded tokens were counted, so that more trees grew at a time than an engine can remember."""

    class Forgetful(NotedEngine):
        kv_cache_tokens = 500

    world, sizes, growing = lively(), [], []
    engine = Forgetful(world.noise)
    sampler = TreeSampler(engine, world.rules(turns=turns(Talkative, max_observed_tokens=100)))
    for num_finished, (_, tree) in enumerate(sampler.grow(problems(9), seed=1)):
        growing.append(len(engine.room_for_trees) - num_finished)
        sizes.append(sum(len(node.token_ids) for node in tree.nodes))
    assert growing[0] == 1
    assert SHAPE.max_tree_tokens < min(sizes) and max(growing) <= 500 / min(sizes)


class Broken(CopyFork):
    """Fails at `fails_at`."""

    def __init__(self, fails_at: str) -> None:
        self.fails_at = fails_at

    def reset(self, problem: Any) -> str:
        if self.fails_at == "reset":
            raise OSError("no game today")
        return "ab"

    def step(self, assistant_text: str) -> Any:
        if self.fails_at == "step":
            raise OSError("no game today")
        return "not a turn"


@pytest.mark.parametrize(
    ("fails_at", "error", "message"),
    [
        ("reset", EnvironmentFailedError, "environment: it cannot be begun for problem 'p.*': OSError: no game today"),
        ("step", EnvironmentFailedError, "environment: each of .* calls failed: OSError: no game today"),
        ("type", StrategyError, "environment: step must return a treepo.Turn, got 'not a turn'"),
    ],
)
def test_environments_that_never_work_are_told_at_once(fails_at: str, error: type, message: str) -> None:
    engine = ScriptedEngine(lively().noise, EOS)
    sampler = TreeSampler(engine, lively().rules(turns=turns(lambda: Broken(fails_at))))
    with pytest.raises(error, match=message):
        list(sampler.grow(problems(6), seed=1))


def test_environments_of_trees_that_nobody_waits_for_are_closed() -> None:
    made: list[Game] = []
    engine = ScriptedEngine(lively().noise, EOS)
    sampler = TreeSampler(engine, lively().rules(turns=turns(lambda: Game(1000, made=made))))
    growing = sampler.grow(problems(8), seed=1)
    next(growing)
    growing.close()
    assert made and all(game.num_closed == 1 for game in made)


def test_a_path_that_does_not_fork_is_not_copied() -> None:
    """Of a tree of one path, whose turns nobody can come back to, no environment is forked."""
    made: list[Game] = []
    world = replace(lively(), shape=replace(SHAPE, width=1, num_children=1), fork=InitialFork(1, 1))
    tree = grown(world, turns(lambda: Game(1000, made=made)), segment_full_trees=False)
    assert len(made) == 1 and tree.has_observed


def test_rewards_of_turns_are_on_the_path() -> None:
    tree = grown(lively(), turns(lambda: Game(3)))
    for leaf in tree.leaves():
        game = Game(3)
        game.reset(problem(LIVELY.name))
        texts = [text for text, _ in turn_texts(tree, leaf)]
        rewards = tree.turn_rewards(leaf)
        assert rewards == [game.step(text).reward for text in texts[: len(rewards)]]
    assert any(np.abs(tree.turn_rewards(leaf)).sum() for leaf in tree.leaves())
