"""What a run shows while it works."""

from io import StringIO

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from treepo.report.run_log import Metrics
from treepo.report.terminal import Terminal, state_line, step_lines

STEP: Metrics = {
    "reward/mean": 0.5321,
    "accuracy": 0.481,
    "problems/trained": 25,
    "problems/grown": 32,
    "tokens/sharing": 1.524,
    "time/trajectories_per_s": 12.34,
    "time/tokens_per_s": 1234.0,
    "time/step_s": 4.0,
    "time/grow_s": 2.44,
    "time/verify_s": 0.08,
    "time/pack_s": 0.04,
    "time/update_s": 1.44,
}


def shown(is_terminal: bool, num_steps: int, first: int, seconds_per_step: float) -> str:
    """All that a run writes which takes this long for each step and began at the step `first`."""
    file = StringIO()
    console = Console(file=file, force_terminal=is_terminal, width=80, color_system=None, legacy_windows=False)
    times = iter(seconds_per_step * i for i in range(num_steps + 1))
    with Terminal(console).training(num_steps, lambda: next(times)) as show:
        for step in range(first, num_steps + 1):
            show(step, STEP)
    return file.getvalue()


def test_lines_of_a_step():
    """All figures, as a reader would round them."""
    assert step_lines(12, STEP) == ["step  12  reward 0.532  acc 48%  trees 25/32  12.3 traj/s  1234 tok/s"]
    assert state_line(310.4, STEP) == "0:05:10 left  sharing 1.52  grow 61 verify 2 pack 1 update 36%"


def test_what_is_not_in_every_step_has_a_line_of_its_own():
    more = STEP | {
        "eval/avg": 0.612,
        "eval/greedy": 0.63,
        "update/num_oom": 1,
        "update/max_tokens_per_micro_batch": 4096,
    }
    assert [line.strip() for line in step_lines(1, more)[1:]] == [
        "held out 61.2% (greedy 63.0%)",
        "out of memory: train.max_tokens_per_micro_batch is 4096 from now on",
    ]


@settings(max_examples=300, deadline=None)
@given(
    step=st.integers(1, 9999),
    reward=st.floats(-99, 99),
    right=st.floats(0, 1),
    grown=st.integers(1, 999),
    rate=st.floats(0.01, 5e5),
    seconds=st.floats(1e-3, 1e5),
    left=st.floats(0, 3.5e5),
    update=st.floats(0, 1),
    sharing=st.floats(1, 99),
)
@example(9999, -99.0, 1.0, 999, 99995.0, 1e5, 3.5e5, 0.5, 99.0)
def test_lines_fit_80_columns(step, reward, right, grown, rate, seconds, left, update, sharing):
    """Also in long runs, fast ones and slow ones, with the bar of up to 17 columns before the state. A rate of 99995
    was once written as 100.0k, and a line had 81."""
    metrics = STEP | {
        "reward/mean": reward,
        "accuracy": right,
        "problems/grown": grown,
        "problems/trained": grown,
        "time/trajectories_per_s": rate,
        "time/tokens_per_s": 10 * rate,
        "time/step_s": seconds,
        "time/grow_s": seconds * (1 - update),
        "time/verify_s": 0,
        "time/pack_s": 0,
        "time/update_s": seconds * update,
        "tokens/sharing": sharing,
    }
    assert all(len(line) <= 80 for line in step_lines(step, metrics))
    assert len("------ 1000/1000 " + state_line(left, metrics)) <= 80


@pytest.mark.parametrize("first", [1, 3])
def test_time_left_is_that_of_the_steps_of_this_process(first: int):
    """60 s per step, whether or not the run began with step 1: after step 3 two steps are left."""
    lines = shown(False, num_steps=5, first=first, seconds_per_step=60.0).splitlines()
    assert [line.split(" left")[0].strip() for line in lines if "left" in line][3 - first :] == [
        "3/5 0:02:00",
        "4/5 0:01:00",
        "5/5 0:00:00",
    ]


def test_without_a_terminal_there_are_plain_lines():
    """Two per step, and nothing that moves a cursor."""
    text = shown(False, num_steps=3, first=1, seconds_per_step=1.0)
    assert "\x1b" not in text and "\r" not in text
    assert len(text.splitlines()) == 6


def test_in_a_terminal_a_bar_stands_below_the_lines():
    """It is drawn again below each line; at the end all steps are done."""
    text = shown(True, num_steps=3, first=1, seconds_per_step=1.0)
    last = text.rstrip().removesuffix("\x1b[?25h").splitlines()[-1]
    assert "3/3" in last and "grow 61 verify 2 pack 1 update 36%" in last
    assert text.count("step   ") == 3


def test_other_work_says_every_tenth_where_there_is_no_terminal():
    """25 reports of 25 things make ten lines, and no bar."""
    file = StringIO()
    with Terminal(Console(file=file, width=80)).progress("making the base model") as report:
        for i in range(1, 26):
            report(i, 25, 1.0)
    lines = file.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[-1] == "making the base model (1.000) 25/25"


def test_work_that_is_done_already_shows_nothing():
    """No bar of nothing, whoever reads."""
    for is_terminal in (True, False):
        file = StringIO()
        with Terminal(Console(file=file, force_terminal=is_terminal)).progress("making the base model"):
            pass
        assert file.getvalue() == ""
