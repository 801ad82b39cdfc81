"""A first signal comes through while trees are grown, a second one anywhere."""

import os
import signal
import threading

import pytest

from treepo.errors import Interrupted
from treepo.utils.signals import SIGNALS, StepGuard, StepState


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_waits_until_trees_are_grown(signum):
    with StepGuard() as guard:
        send(signum)
        with pytest.raises(Interrupted, match=f"stopped by {signal.Signals(signum).name}") as caught, guard.growing():
            pass
    assert (caught.value.signum, caught.value.is_urgent) == (signum, False)


def test_while_growing_a_signal_comes_through_at_once():
    with StepGuard() as guard, pytest.raises(Interrupted) as caught, guard.growing():
        send(signal.SIGINT)
    assert not caught.value.is_urgent


def test_while_weights_change_a_signal_waits():
    with StepGuard() as guard:
        with guard.growing():
            pass
        guard.state = StepState.UPDATING
        send(signal.SIGTERM)
        guard.state = StepState.COMPLETE
        with pytest.raises(Interrupted), guard.growing():
            pass


def test_states_of_a_step():
    """The weights are those of the last complete step but while they change; then nothing is grown."""
    guard = StepGuard()
    assert guard.state is StepState.COMPLETE
    with guard.growing():
        assert guard.state is StepState.GROWING
    assert guard.state is StepState.COMPLETE
    guard.state = StepState.UPDATING
    assert guard.state is StepState.UPDATING
    with pytest.raises(AssertionError, match="UPDATING"), guard.growing():
        pass
    guard.state = StepState.COMPLETE
    assert guard.state is StepState.COMPLETE


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_the_second_one_comes_through_anywhere(first, second, capfd):
    with StepGuard():
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
    with StepGuard():
        assert all(signal.getsignal(signum) not in before for signum in SIGNALS)
    assert [signal.getsignal(signum) for signum in SIGNALS] == before


def test_outside_the_main_thread_signals_are_left_to_it():
    """Python takes handlers from the main thread alone; a run in another one goes on without."""
    before = [signal.getsignal(signum) for signum in SIGNALS]
    seen = []

    def work() -> None:
        with StepGuard() as guard, guard.growing():
            seen.append([signal.getsignal(signum) for signum in SIGNALS])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_it_grows_for_so_long():
    """And no longer, also where something went wrong: others may learn of it then, which nothing may cut short."""
    with StepGuard() as guard:
        with pytest.raises(KeyError), guard.growing():
            {StepState.GROWING: {}}[guard.state]["nothing"]
        send(signal.SIGTERM)
        with pytest.raises(Interrupted), guard.growing():
            pass
        assert guard.state is StepState.COMPLETE


def test_a_signal_that_is_sent_twice_is_one(monkeypatch):
    """Within repeat_s of the first; later it is the second one."""
    now = 100.0
    monkeypatch.setattr("treepo.utils.signals.monotonic", lambda: now)
    with StepGuard(repeat_s=5.0) as guard:
        send(signal.SIGTERM)
        now = 104.0
        send(signal.SIGINT)
        now = 106.0
        with pytest.raises(Interrupted) as caught:
            send(signal.SIGTERM)
    assert caught.value.is_urgent and guard.state is StepState.COMPLETE
