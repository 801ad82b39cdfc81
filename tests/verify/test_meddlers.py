"""Functions that meddle with their worker process: each costs its own answer at most, and leaves nothing behind."""

import time
from collections.abc import Iterator

import pytest

from tests.verify.test_pool import RIGHT, WRONG, ask, is_gone_soon, lives
from treepo.data.problem import Outcome, Verdict
from treepo.verify.pool import VerifierPool, VerifierPoolSettings
from treepo.verify.verifiers import FunctionVerifier

MEDDLER = FunctionVerifier("tests.verify.meddlers:judge")
CRASHED = Verdict(0.0, Outcome.CRASHED, None)


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(MEDDLER, VerifierPoolSettings(num_workers=2, time_limit_s=4)) as shared:
        yield shared


FORKS = ["fork", "fork_and_raise", "fork_and_exit", "fork_and_praise"]
WRITERS = ["wrong", "ready", "next", "praise_twice", "close", "leave"]


@pytest.mark.parametrize("deed", [*FORKS, *WRITERS])
def test_what_meddles_costs_its_own_answer_alone(pool, deed):
    """Also as the last of a batch, where a second reply came when nobody read any more."""
    before, after = ["a", "b", "a"] * 4, ["b", "a"] * 10
    expected = {"a": RIGHT, "b": WRONG, deed: CRASHED}
    for asked in ([*before, deed, *after], [*before, deed], ["b", "a"]):
        assert ask(pool, *asked) == [expected[response] for response in asked]


@pytest.mark.parametrize("deed", ["fork_and_wait", "fork_in_c", "run", "pool", "fork_and_return_late"])
def test_processes_that_do_not_answer_cost_nothing(pool, deed):
    """A function may run programs, or ask a pool of processes that it keeps."""
    asked = ["a", deed, "b", deed, "a"]
    assert ask(pool, *asked) == [RIGHT, RIGHT, WRONG, RIGHT, RIGHT]


@pytest.mark.parametrize("deed", ["junk_later", "die_later", "swallow"])
def test_what_is_left_behind_costs_no_other_answer(pool, deed):
    """A thread that writes or kills while the next is judged; requests taken from the pipe: they timed out."""
    asked = [deed, *["nap"] * 6, "b"] * 2
    assert ask(pool, *asked)[1:] == [RIGHT] * 6 + [WRONG] + [RIGHT] * 7 + [WRONG]


def test_an_answer_that_is_given_again_later_has_crashed(pool):
    assert ask(pool, "a", "praise_later", *["nap"] * 20, "b") == [RIGHT, CRASHED, *[RIGHT] * 20, WRONG]


def test_processes_in_sessions_of_their_own_end_with_the_worker():
    """They left the process group that was killed, and ran on."""
    with VerifierPool(MEDDLER, VerifierPoolSettings(num_workers=1)) as own:
        (verdict,) = ask(own, "escape")
        assert lives(verdict.extracted_answer)
    assert is_gone_soon(verdict.extracted_answer)


def test_a_worker_that_cannot_reply_is_replaced_without_waiting_for_the_limit():
    with VerifierPool(MEDDLER, VerifierPoolSettings(num_workers=1)) as own:
        start = time.monotonic()
        assert ask(own, "leave", "a", "close", "b") == [CRASHED, RIGHT, CRASHED, WRONG]
        assert time.monotonic() - start < 30
