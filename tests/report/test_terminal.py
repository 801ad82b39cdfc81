"""What a run shows while it works."""

import json
from io import StringIO
from time import sleep

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from treepo.report.run_log import Metrics, MetricsLog
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
    now = 0.0
    with Terminal(console).training(num_steps, lambda: now) as view:
        for step in range(first, num_steps + 1):
            now += seconds_per_step
            view.show_step(step, STEP)
    return file.getvalue()


def test_lines_of_a_step():
    """All figures, as a reader would round them."""
    assert step_lines(12, STEP) == ["step  12  reward 0.532  acc 48%  trees 25/32  12.3 traj/s  1234 tok/s"]
    assert state_line(310.4, STEP) == "0:05:10 left  sharing 1.52  grow 61 verify 2 pack 1 update 36%"


def test_what_is_not_in_every_step_has_a_line_of_its_own():
    more = STEP | {
        "eval/avg": 0.612,
        "eval/greedy": 0.63,
        "eval/maj": 0.62,
        "eval/pass": 0.701,
        "update/num_oom": 1,
        "update/max_tokens_per_micro_batch": 4096,
    }
    assert [line.strip() for line in step_lines(1, more, num_samples=4)[1:]] == [
        "held-out accuracy 61.2%, greedy 63.0%, pass@4 70.1%, maj@4 62.0%",
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


def test_other_work_speaks_after_two_seconds_and_ever_more_rarely_where_there_is_no_terminal():
    """Reports every second for ten minutes: lines at 2, 4, 8 ... seconds, then each minute, and at the end; no bar."""
    file, now = StringIO(), 0.0
    with Terminal(Console(file=file, width=80)).progress("making the base model", lambda: now) as report:
        for second in range(601):
            now = float(second)
            report(second, 600, 1.0)
    lines = file.getvalue().splitlines()
    assert [int(line.split()[5].partition("/")[0]) for line in lines] == [
        *(2, 4, 8, 16, 32, 64, 124, 184, 244, 304, 364, 424, 484, 544),
        600,
    ]
    assert lines[0] == "making the base model (1.000) 2/600, 0:09:58 left"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_first_step_shows_that_it_grows(is_terminal):
    """Nothing moved for minutes while a large model grew its first trees, or was evaluated."""
    file, now = StringIO(), 0.0
    console = Console(file=file, force_terminal=is_terminal, width=80, color_system=None, legacy_windows=False)
    with Terminal(console).training(3, lambda: now) as view:
        for tenth in range(31):
            now = tenth / 10
            view.show_phase("growing", tenth, 60)
    done, left = (30, 3) if is_terminal else (20, 4)
    assert f"growing {done}/60, 0:00:0{left} left" in file.getvalue()
    assert is_terminal or len(file.getvalue().splitlines()) == 1


def test_a_stage_that_takes_long_speaks():
    """Loading PyTorch from a slow disk showed nothing at all."""
    file = StringIO()
    with Terminal(Console(file=file, width=80)).stage("loading", first_s=0.01):
        sleep(0.1)
    assert file.getvalue().splitlines() == ["loading (0:00:00) ..."]
    file.truncate(0)
    with Terminal(Console(file=file, width=80)).stage("loading"):
        pass
    assert "loading" not in file.getvalue()


def test_a_run_without_a_signal_does_not_end_like_a_success(tmp_path):
    """The table of a run that could learn nothing read like any other."""
    useless = {
        **dict.fromkeys(("tokens/decoded", "tokens/total"), 10.0),
        **dict.fromkeys(("problems/grown", "problems/failed"), 4),
        "reward/mean": 0.0,
    }
    useless |= {"problems/trained": 0, "problems/solved": 0, "eval/avg": 0.25, "eval/greedy": 0.5}
    file = StringIO()
    Terminal(Console(file=file, width=80)).summary([useless, useless], tmp_path, [])
    text = file.getvalue()
    assert "Nothing was learned" in text and "0 of 2" in text
    assert "warning: 2 of 2 steps: no tree carries a signal" in text
    file.truncate(0)
    Terminal(Console(file=file, width=80)).summary([useless | {"problems/trained": 2}], tmp_path, [])
    assert "Summary of the run" in file.getvalue() and "warning" not in file.getvalue()
    # Without an evaluation before training there is one figure, and no arrow.
    assert "25.0% │" in file.getvalue() and "->" not in file.getvalue()


def test_work_that_is_done_already_shows_nothing():
    """No bar of nothing, whoever reads."""
    for is_terminal in (True, False):
        file = StringIO()
        with Terminal(Console(file=file, force_terminal=is_terminal)).progress("making the base model"):
            pass
        assert file.getvalue() == ""


def test_the_summary_says_what_sharing_saved(tmp_path):
    """Tokens as they were counted, and the time they would have taken at the same speed: 10 x (3 - 1) + 6 x (5 - 1)."""
    tokens = {"tokens/decoded": 100, "tokens/total": 300, "tokens/forwarded": 20, "tokens/unpacked": 100}
    problems = {f"problems/{name}": 2 for name in ("grown", "trained", "solved", "failed")}
    times = {"time/grow_s": 10.0, "time/update_s": 6.0, "time/step_s": 17.0}
    console = Console(width=100, record=True, file=StringIO())
    Terminal(console).summary([tokens | problems | times], tmp_path, [])
    text = console.export_text()
    assert "300 (67% saved)" in text and "20 (80% fewer)" in text and "about 44 s" in text


def test_a_summary_of_a_changed_log_leaves_out_what_is_no_number(tmp_path):
    """A name or a value in metrics.jsonl that was changed ended a resumed run in a traceback, at its very end."""
    whole = {"tokens/decoded": 9, "tokens/total": 18} | {
        f"problems/{name}": 2 for name in ("grown", "trained", "solved", "failed")
    }
    lines = [json.dumps({"step": 1} | whole)]
    lines += [json.dumps({"step": 2} | whole | {name: value}) for name in whole for value in (None, "x", [], True, {})]
    lines += [f'{{"step": 3, "{name}": {"9" * 400}, "eval/avg": 0.5}}' for name in whole]
    lines += [json.dumps({k: v for k, v in whole.items() if k != name}) for name in whole]
    lines += ["[]", "5", "not json", "[" * 10_000, json.dumps(whole | {"time/step_s": None, "eval/avg": "x"})]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    log = MetricsLog(tmp_path / "metrics.jsonl").read()
    console = Console(width=100, record=True, quiet=False, file=StringIO())
    Terminal(console).summary(log, tmp_path, [])
    assert "2 of 2" in console.export_text()
