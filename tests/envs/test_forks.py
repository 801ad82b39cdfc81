"""Forking environments, and the pool that calls them."""

import asyncio
import threading
import time
from copy import deepcopy
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.envs.games import AsyncGame, Erratic, Game, Plain, Shared
from treepo.data.problem import Problem
from treepo.envs import ReplayFork, SnapshotFork, Turn, check_forks
from treepo.envs.pool import EnvironmentPool
from treepo.errors import EnvironmentDivergedError, SettingError, StrategyError

ACTIONS = st.lists(st.text("ab", max_size=4), min_size=1, max_size=5)
KINDS = {"copied": Game, "replayed": lambda: ReplayFork(Plain), "async": AsyncGame, "async replayed": None}
KINDS["async replayed"] = lambda: ReplayFork(AsyncGame)


@pytest.mark.parametrize("kind", KINDS)
@given(actions=ACTIONS, name=st.text("pq", max_size=3))
def test_forked_equals_replayed(kind, actions, name):
    check_forks(KINDS[kind], actions, Problem(name, "", (0,), ""))


def test_forks_are_checked_in_a_notebook_too():
    """A cell runs in an event loop, in which another one could not be run."""

    async def cell() -> None:
        check_forks(AsyncGame, ["a", "b"])

    asyncio.run(cell())


class Kept(Game):
    """A game in a sandbox: `snapshots` holds one entry for each that is kept."""

    snapshots: ClassVar[list["Kept"]] = []

    def snapshot(self) -> "Kept":
        self.snapshots.append(deepcopy(self))
        return self.snapshots[-1]

    def __deepcopy__(self, memo: dict) -> "Kept":
        other = super().__deepcopy__(memo)
        other.__class__ = Kept
        return other  # pyright: ignore[reportReturnType]

    async def restore(self) -> "Kept":
        return deepcopy(self)

    def delete(self) -> None:
        self.snapshots.remove(self)


@given(actions=ACTIONS, name=st.text("pq", max_size=3))
def test_snapshots_fork_and_are_deleted(actions, name):
    """Each once, also where several forks are restored from it and others never act."""
    check_forks(lambda: SnapshotFork(Kept), actions, Problem(name, "", (0,), ""))
    assert Kept.snapshots == []


def test_a_snapshot_is_taken_once_per_state():
    """However often it forks there; forks that never act restore nothing."""
    environment = SnapshotFork(Kept)
    environment.reset(Problem("p", "", (0,), ""))
    forks = [environment.fork() for _ in range(3)]
    forks.append(forks[0].fork())
    assert len(Kept.snapshots) == 1 and all(fork.inner is None for fork in forks)
    environment.step("a")
    for fork in forks[1:]:
        fork.close()
    assert len(Kept.snapshots) == 1
    forks[0].close()
    assert Kept.snapshots == []


def test_a_fork_that_shares_state_is_found():
    with pytest.raises(AssertionError, match="forked after 0 actions, the original answers action 1"):
        check_forks(Shared, ["a", "b", "a"])


def test_an_environment_that_never_repeats_itself_is_found():
    with pytest.raises(AssertionError, match="two episodes with the same actions differ"):
        check_forks(lambda: ReplayFork(Erratic), ["a", "b"])


def test_a_replay_that_differs_says_at_which_action():
    environment = ReplayFork(Erratic)
    environment.reset(Problem("p", "", (0,), ""))
    environment.step("a")
    with pytest.raises(EnvironmentDivergedError, match="its answer to action 1 differs"):
        environment.fork().step("b")


def test_a_replay_repeats_nothing_before_it_acts():
    """A path that does not fork costs no replay."""
    made = []
    environment = ReplayFork(lambda: made.append(1) or Plain())
    environment.reset(Problem("p", "", (0,), ""))
    for _ in range(3):
        environment.fork()
        environment.step("a")
    assert len(made) == 1


@pytest.mark.parametrize(
    "make", [lambda: Turn(3), lambda: Turn([1]), lambda: Turn("a", float("nan")), lambda: Turn("a", 0.0, None)]
)
def test_what_is_no_turn_is_refused(make):
    with pytest.raises(StrategyError, match="environment: "):
        make()
    turn = Turn("a", np.float32(0.5), np.bool_(True))  # pyright: ignore[reportArgumentType]
    assert (turn.reward, turn.done) == (0.5, True), "numpy's scalars ended the run"


def test_calls_run_side_by_side_and_each_has_its_time():
    """Eight calls wait for each other; one that never ends is given up, and its thread replaced."""
    pool, together, never = EnvironmentPool(8, timeout_s=0.3), threading.Barrier(8), threading.Event()
    for i in range(8):
        pool.submit(i, lambda: together.wait(5) >= 0)
    found = [result for _ in range(8) for result in pool.poll(wait=True)]
    assert {result.key for result in found} == set(range(8)) and all(result.value for result in found)
    for i in range(9):
        pool.submit(i, never.wait)
    pool.submit("after", lambda: "done")
    results = {}
    while pool.num_pending:
        results |= {result.key: result for result in pool.poll(wait=True)}
    assert all(isinstance(results[i].error, TimeoutError) for i in range(9))
    assert results["after"].value == "done"
    never.set()
    pool.close(lambda _: None)


def test_coroutines_share_an_event_loop_and_are_cancelled_after_their_time():
    pool, cancelled = EnvironmentPool(2, timeout_s=0.2), threading.Event()

    async def loop_of() -> int:
        return id(asyncio.get_running_loop())

    async def forever() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    pool.submit(0, loop_of)
    pool.submit(1, loop_of)
    pool.submit(2, forever)
    results = {}
    while pool.num_pending:
        results |= {result.key: result for result in pool.poll(wait=True)}
    assert results[0].value == results[1].value
    assert isinstance(results[2].error, TimeoutError)
    assert cancelled.wait(5)
    pool.close(lambda _: None)


def test_a_poll_that_does_not_wait_returns_at_once():
    pool, never = EnvironmentPool(1), threading.Event()
    pool.submit(0, never.wait)
    start = time.monotonic()
    assert pool.poll(wait=False) == []
    assert time.monotonic() - start < 1
    never.set()
    pool.close(lambda _: None)


@pytest.mark.parametrize(("name", "settings"), [("num_workers", {"num_workers": 0}), ("timeout_s", {"timeout_s": 0})])
def test_impossible_pools_are_refused(name, settings):
    with pytest.raises(SettingError, match=name):
        EnvironmentPool(**settings)
