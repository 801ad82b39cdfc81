"""What a run that goes on looks like."""

import io
import unicodedata

import numpy as np
import pytest
from rich.console import Console

from tests.report.live.runs import line
from treepo.report.live.screen import DOTS, METRICS, Screen, curve
from treepo.report.live.state import MetricsFollower, RunState
from treepo.report.terminal import state_line


def dots(lines: list[str]) -> np.ndarray:
    """0 or 1 per dot, from the top left."""
    height, width = len(lines), len(lines[0])
    out = np.zeros((4 * height, 2 * width), int)
    for row, text in enumerate(lines):
        for column, char in enumerate(text):
            for y, x in np.ndindex(4, 2):
                out[4 * row + y, 2 * column + x] = bool((ord(char) - 0x2800) & int(DOTS[y, x]))
    return out


def test_a_curve_reaches_from_its_lowest_to_its_highest_value():
    drawn = dots(curve(range(8), range(8), width=4, height=2))
    assert (drawn == np.eye(8, dtype=int)[::-1]).all()


def test_a_curve_has_no_gaps_and_goes_straight_between_points():
    drawn = dots(curve([0, 7], [0, 70], width=4, height=2))
    assert (drawn == np.eye(8, dtype=int)[::-1]).all()
    steep = dots(curve([0, 1], [0, 1], width=1, height=3))
    assert steep.sum() == 12, "from the bottom in the left column, up to the top in the right one"
    assert steep[-1, 0] == 1 and steep[0, 1] == 1


def test_points_of_one_column_are_averaged():
    assert curve(range(4), [0, 2, 4, 6], width=1, height=1) == curve([0, 1], [1, 5], width=1, height=1)


@pytest.mark.parametrize("y", [[], [3.0], [2.0, 2.0, 2.0], [float("nan")] * 3, [1.0, float("inf"), 2.0]])
def test_few_and_equal_and_infinite_values_are_drawn(y):
    lines = curve(range(len(y)), y, width=5, height=2)
    assert [len(text) for text in lines] == [5, 5]
    assert dots(lines).any() == bool(np.isfinite(y).any())


def shown(state: RunState, width: int, height: int = 30, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding)
    console = Console(
        file=file, width=width, height=height, force_terminal=True, color_system=None, legacy_windows=False
    )
    console.print(Screen(state))
    file.flush()
    return file.buffer.getvalue().decode(encoding)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(line(step, **{"eval/avg": step / 20} if step % 4 == 0 else {}) for step in range(13)))
    follower = MetricsFollower(path, METRICS)
    follower.refresh()
    return tuple(follower.log)


@pytest.mark.parametrize("width", [20, 39, 80, 200])
def test_no_line_is_wider_than_the_terminal(log, width):
    text = shown(RunState("runs/mine", 20, log), width)
    assert max(map(len, text.splitlines())) <= width


def test_a_screen_fits_an_ordinary_terminal(log):
    assert shown(RunState("runs/mine", 20, log), 80, 24).count("\n") <= 24


def test_step_time_left_figures_and_phases(log):
    text = shown(RunState("runs/mine", 20, log, age_s=3), 80)
    assert "step 12 of 20  0:00:16 left  2.0 s per step  last one 0:00:03 ago" in text
    assert "reward 1.500 (0.125 to 1.500)" in text
    assert "held-out accuracy 60.0%" in text
    assert "grow 50%" in text and "update 35%" in text and "other 10%" in text
    bar = next(text for text in text.splitlines() if text.startswith("███"))
    assert [bar.count(fill) for fill in "█▓▒░·"] == [40, 0, 4, 28, 8]


def test_all_phases_of_a_step_are_told():
    """Entropies, and waiting for other processes, were counted as other things."""
    step = {"step": 1.0, "time/step_s": 10.0, "time/grow_s": 4.0, "time/wait_s": 2.0, "time/entropies_s": 1.0}
    text = shown(RunState("runs/mine", 20, (step,)), 80)
    assert "grow 40%  ▞ wait 20%  ▚ entropies 10%  · other 30%" in text
    assert [text.count(fill) for fill in "█▓▞▒▚░·"] == [33, 0, 17, 0, 9, 0, 25], "the legend has one of each"
    line = state_line(360_000, step | {"tokens/sharing": 6.1})
    assert line == "100:00:00 left  sharing 6.10  grow 40 entropies 10%"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308, -1.0])
def test_times_that_are_none_are_shown(value):
    """`treepo watch` ended where the time of a step was NaN."""
    times = {f"time/{name}_s": value for name in ("step", "grow", "update")}
    log = tuple({"step": float(step), **times} for step in range(1, 4))
    assert "step 3 of 20" in shown(RunState("runs/mine", 20, log), 80)


def test_a_run_that_has_written_nothing():
    assert "waiting for the run to begin" in shown(RunState("runs/mine", None, ()), 80)
    assert "no step of 20 yet" in shown(RunState("runs/mine", 20, ()), 80)


def test_a_run_with_the_first_evaluation_alone(log):
    assert "step 0 of 20" in shown(RunState("runs/mine", 20, log[:1]), 80)


def test_terminals_without_braille_get_values(log):
    text = shown(RunState("runs/mine", 20, log), 80, encoding="ascii")
    assert "entropy 0.100" in text


def test_a_folders_name_does_not_steer_the_terminal(log):
    text = shown(RunState("runs/\x1b[2J\u202e[red]x", 20, log), 80)
    assert "runs/\\x1b[2J\\u202e[red]x" in text
    assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"]
