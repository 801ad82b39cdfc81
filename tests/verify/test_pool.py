"""DistContext that judge: what fails fails alone, what hangs is ended, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.verify.judges import said
from treepo.data.problem import Outcome, Verdict
from treepo.errors import VerifierStartError
from treepo.verify.pool import VerifierPool, VerifierPoolSettings
from treepo.verify.verifiers import ExactVerifier, FunctionVerifier

JUDGE = FunctionVerifier("tests.verify.judges:judge")
RIGHT, WRONG = (Verdict(correct, Outcome.GRADED, None) for correct in (1.0, 0.0))


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    """One for the tests that need nothing else of it; its limits are those of the tests."""
    with VerifierPool(JUDGE, VerifierPoolSettings(num_workers=2, cpu_limit_s=1, memory_limit_mib=300)) as shared:
        yield shared


def ask(pool: VerifierPool, *responses: str) -> list[Verdict]:
    return pool.verify([(response, "a") for response in responses])


def lives(pid: str | None) -> bool:
    """Whether a process runs; one that ended and was not collected yet does not."""
    try:
        os.kill(int(pid or ""), 0)
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or ") Z" not in stat.read_text()
    except ProcessLookupError:
        return False


def is_gone_soon(pid: str | None) -> bool:
    """Within 20 s."""
    deadline = time.monotonic() + 20
    while lives(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not lives(pid)


def test_verdicts_come_in_the_order_asked(pool):
    asked = [(str(i), str(i - i % 3 % 2)) for i in range(2000)]
    assert [verdict == RIGHT for verdict in pool.verify(asked)] == [response == answer for response, answer in asked]


def test_nothing_asked_starts_nothing():
    assert VerifierPool(FunctionVerifier("no.such:thing")).verify([]) == []


def test_what_a_function_may_return(pool):
    verdicts = ask(pool, "a", "b", "half", "\\boxed{ x  y }")
    assert verdicts == [RIGHT, WRONG, Verdict(0.5, Outcome.GRADED, None), Verdict(0.0, Outcome.GRADED, "x y")]


def test_failures_fail_alone_and_are_told():
    """Raising, leaving, being killed, running out of memory, returning nonsense: each is CRASHED, the others judged."""
    with VerifierPool(JUDGE, VerifierPoolSettings(num_workers=1, memory_limit_mib=300)) as own:
        bad = ["raise", "exit", "die", "memory", "two", "nothing"]
        verdicts = ask(own, *[response for one in bad for response in ("a", one, "b")])
        assert verdicts == [RIGHT, Verdict(0.0, Outcome.CRASHED, None), WRONG] * len(bad)
        told = [
            r"ZeroDivisionError: no such thing \(judges.py:\d+\)",
            "exit status 1: enough",
            "ended by SIGKILL: last words",
            "exit status 1: .*MemoryError",
            "must return a bool, 0 to 1 or a Verdict, got 2.0",
        ]
        assert len(own.crashes) == len(told)
        for problem, pattern in zip(own.crashes, told, strict=True):
            with pytest.raises(ValueError, match=pattern):
                raise ValueError(problem)


def test_what_hangs_is_ended_and_others_are_judged(pool):
    """Also in C code that never comes back to Python, where signal handlers do not run; by either limit."""
    verdicts = ask(pool, *["a"] * 20, "spin", *["b"] * 20)
    assert verdicts == [RIGHT] * 20 + [Verdict(0.0, Outcome.TIMEOUT, None)] + [WRONG] * 20


ODD_WRITERS = ["junk", "half a message", "another", "a list", "endless", "twice", "hold"]


@pytest.mark.parametrize("odd", ODD_WRITERS)
def test_a_function_that_writes_into_the_pipe_costs_its_own_answer_alone(odd):
    """Replies had no number: one that was written besides, or twice, shifted the verdicts on all later answers."""
    with VerifierPool(JUDGE, VerifierPoolSettings(num_workers=1, time_limit_s=20)) as own:
        responses = [*"abab", odd, *"abab" * 5]
        expected = [RIGHT if response == "a" else WRONG for response in responses]
        expected[4] = Verdict(0.0, Outcome.CRASHED, None)
        start = time.monotonic()
        assert ask(own, *responses) == expected
        # Nobody waits for the limit where the worker is gone and another process holds its pipe.
        assert time.monotonic() - start < 15


def test_a_function_that_forks_and_returns_twice_costs_its_own_answer_alone():
    """The copy went on in the worker's place: it answered, too, and took requests."""
    with VerifierPool(JUDGE, VerifierPoolSettings(num_workers=2)) as own:
        responses = ["a", "fork", "b"] * 20
        assert ask(own, *responses) == [RIGHT, Verdict(0.0, Outcome.CRASHED, None), WRONG] * 20


def test_what_an_earlier_answer_left_behind_costs_no_later_one():
    """A thread that writes into the pipe when another answer is judged: that one is judged anew."""
    with VerifierPool(JUDGE, VerifierPoolSettings(num_workers=1)) as own:
        verdicts = ask(own, "later", *["nap", "b"] * 20)
        assert verdicts[1:] == [RIGHT, WRONG] * 20


def test_processor_time_is_limited_whatever_else_runs():
    """On a busy machine the same answer took more wall time, and its verdict became another one."""
    limits = VerifierPoolSettings(num_workers=4, cpu_limit_s=1.5, time_limit_s=60)
    with VerifierPool(JUDGE, limits) as own:
        # Four at a time on fewer cores: each takes longer than its processor time.
        assert ask(own, *["work"] * 8, "spin") == [*[RIGHT] * 8, Verdict(0.0, Outcome.TIMEOUT, None)]


def test_what_is_printed_does_not_get_between(pool):
    assert ask(pool, "print", "a", "print", "b") == [RIGHT, RIGHT, RIGHT, WRONG]


def test_processes_that_a_function_started_end_with_its_worker(pool):
    child = ask(pool, "child")[0].extracted_answer
    assert lives(child)
    pool.close()
    assert is_gone_soon(child)


def test_workers_are_light(pool):
    assert ask(pool, "modules") == [said([])]


def test_a_worker_that_grew_is_replaced_after_its_answer():
    """Else what one answer left behind would leave too little memory to the next."""
    with VerifierPool(JUDGE, VerifierPoolSettings(num_workers=1, memory_limit_mib=300)) as own:
        verdicts = ask(own, *["pid", "keep"] * 2, "pid")
        assert [verdict.outcome for verdict in verdicts] == [Outcome.GRADED] * 5
        assert len({verdict.extracted_answer for verdict in verdicts[::2]}) == 3
        assert own.crashes == []


def test_a_worker_that_died_between_rounds_is_replaced():
    with VerifierPool(JUDGE, VerifierPoolSettings(num_workers=1)) as own:
        (first,) = ask(own, "pid")
        os.kill(int(first.extracted_answer or ""), signal.SIGKILL)
        assert is_gone_soon(first.extracted_answer)
        again = ask(own, "pid", "a")
        assert (
            again[0].outcome is Outcome.GRADED
            and again[0].extracted_answer != first.extracted_answer
            and again[1] == RIGHT
        )


def test_megabytes_and_any_character_arrive():
    text = "\x00\ud800x\udfff\U0001f600\n" * 100_000
    with VerifierPool(FunctionVerifier("tests.verify.judges:measure"), VerifierPoolSettings(num_workers=1)) as own:
        assert own.verify([(text, "a"), ("", text)]) == [said((600_000, 100_000, 200_000)), said((0, 0, 0))]


def test_threads_take_turns(pool):
    found: dict[int, list[Verdict]] = {}

    def work(number: int) -> None:
        found[number] = pool.verify([(str(i), str(i + number)) for i in range(200)])

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: [RIGHT] * 200, 1: [WRONG] * 200}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no.such:thing", "^verifier.function: cannot be imported: ModuleNotFoundError.*, got 'no.such:thing'$"),
        ("tests.verify.judges:none", "function: cannot be imported: .*has no attribute 'none'"),
        ("tests.verify.judges:no_function", "function: must name something callable, got '.*no_function'"),
    ],
)
def test_a_function_that_cannot_be_found_is_named(function, message):
    with VerifierPool(FunctionVerifier(function)) as own, pytest.raises(ValueError, match=message):
        ask(own, "a")


def test_a_worker_that_cannot_start_is_an_error_with_its_last_words(tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text("import os\nos.write(2, b'I cannot')\nos._exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    message = "^verifier.function: a worker could not start, exit status 3: I cannot, got 'deadly:judge'$"
    with VerifierPool(FunctionVerifier("deadly:judge")) as own, pytest.raises(VerifierStartError, match=message):
        ask(own, "a")


class Local(ExactVerifier):
    """Its fields are no JSON."""

    def __init__(self) -> None:
        object.__setattr__(self, "mark", object())
        object.__setattr__(self, "tag", "")
        object.__setattr__(self, "ignore_case", False)


def test_a_verifier_whose_fields_are_no_json_is_named():
    with pytest.raises(ValueError, match="verifier: fields of Local must be what JSON can hold"):
        ask(VerifierPool(Local()), "a")


def test_an_interrupt_leaves_no_worker_and_the_pool_usable():
    """Replies to what was asked before it must not be taken for replies to what is asked next."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with VerifierPool(JUDGE, VerifierPoolSettings(num_workers=2)) as own:
        pids = [verdict.extracted_answer for verdict in ask(own, *["pid"] * 8)]
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                ask(own, "sleep", *["b"] * 20)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert not any(lives(pid) for pid in pids)
        assert ask(own, "a") == [RIGHT]


def test_workers_end_with_their_parent():
    """Idle ones when their input closes, others by their own alarm, even if the parent was killed."""
    code = (
        "from tests.verify.test_pool import *\n"
        "own = VerifierPool(JUDGE, VerifierPoolSettings(num_workers=2, time_limit_s=0.5))\n"
        "print(*{v.extracted_answer for v in ask(own, *['pid'] * 50)} - {None}, flush=True)\n"
        "import treepo.verify.scheduler as r; r.time.monotonic = lambda: 0.0\n"
        "ask(own, 'sleep')\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pids = parent.stdout.readline().split()
        assert pids and all(lives(pid) for pid in pids)
        time.sleep(0.2)
        parent.kill()
    assert all(is_gone_soon(pid) for pid in pids)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_workers": -1}, "num_workers: must be from 0 to 1024, got -1"),
        ({"cpu_limit_s": 0.0}, "cpu_limit_s: must be above 0 and at most 86400, got 0.0"),
        ({"time_limit_s": 0.0}, "time_limit_s: must be above 0 and at most 86400, got 0.0"),
        ({"time_limit_s": float("nan")}, "time_limit_s: must be above 0"),
        ({"memory_limit_mib": 1}, "memory_limit_mib: must be from 16 to 2\\^30, got 1"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        VerifierPoolSettings(**settings)
