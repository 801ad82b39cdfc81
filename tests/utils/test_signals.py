"""Signals come through where nothing is half done, and for the second time anywhere."""

import os
import signal
import threading

import pytest

from treepo.errors import Interrupted
from treepo.utils.signals import SIGNALS, Interrupts


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_waits_until_it_is_admitted(signum):
    with Interrupts() as interrupts:
        send(signum)
        with pytest.raises(Interrupted, match=f"stopped by {signal.Signals(signum).name}") as caught:
            interrupts.admit()
    assert (caught.value.signum, caught.value.is_urgent) == (signum, False)


def test_an_admitted_signal_comes_through_at_once():
    with Interrupts() as interrupts:
        interrupts.admit()
        with pytest.raises(Interrupted) as caught:
            send(signal.SIGINT)
    assert not caught.value.is_urgent


def test_a_held_one_waits_again_after_it_was_admitted():
    with Interrupts() as interrupts:
        interrupts.admit()
        interrupts.hold()
        send(signal.SIGTERM)
        with pytest.raises(Interrupted):
            interrupts.admit()


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_the_second_one_comes_through_anywhere(first, second, capfd):
    with Interrupts():
        send(first)
        with pytest.raises(Interrupted) as caught:
            send(second)
    assert (caught.value.signum, caught.value.is_urgent) == (second, True)
    assert capfd.readouterr().err.count("once more to stop at once") == 1


def test_no_broad_except_can_swallow_it():
    """A verifier or a loss of someone else's may catch every Exception."""
    assert not issubclass(Interrupted, Exception)


def test_the_handlers_are_as_before_afterwards():
    before = [signal.getsignal(signum) for signum in SIGNALS]
    with Interrupts():
        assert all(signal.getsignal(signum) not in before for signum in SIGNALS)
    assert [signal.getsignal(signum) for signum in SIGNALS] == before


def test_outside_the_main_thread_signals_are_left_to_it():
    """Python takes handlers from the main thread alone; a run in another one goes on without."""
    before = [signal.getsignal(signum) for signum in SIGNALS]
    seen = []

    def work() -> None:
        with Interrupts() as interrupts:
            interrupts.admit()
            seen.append([signal.getsignal(signum) for signum in SIGNALS])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_it_is_admitted_for_so_long():
    """And no longer, also where something went wrong: others may be told of it then, which nothing may cut short."""
    with Interrupts() as interrupts:
        with pytest.raises(KeyError), interrupts.admitted():
            {True: {}}[interrupts.is_admitted]["nothing"]
        send(signal.SIGTERM)
        with pytest.raises(Interrupted), interrupts.admitted():
            pass
        assert not interrupts.is_admitted


def test_what_is_told_twice_is_one_signal(monkeypatch):
    """Within repeat_s of the first; later it is the second one."""
    now = 100.0
    monkeypatch.setattr("treepo.utils.signals.monotonic", lambda: now)
    with Interrupts(repeat_s=5.0) as interrupts:
        send(signal.SIGTERM)
        now = 104.0
        send(signal.SIGINT)
        now = 106.0
        with pytest.raises(Interrupted) as caught:
            send(signal.SIGTERM)
    assert caught.value.is_urgent and not interrupts.is_admitted
