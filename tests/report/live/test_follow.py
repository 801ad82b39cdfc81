"""metrics.jsonl is followed as it grows and as it is cut."""

import pytest

from tests.report.live.runs import begin, cut, line, write
from treepo.report.live.state import MetricsFollower, RunFollower

NAMES = frozenset({"reward/mean", "time/step_s"})


@pytest.fixture
def folder(tmp_path):
    begin(tmp_path)
    return tmp_path


def steps(follower):
    return [metrics["step"] for metrics in follower.log]


def test_lines_are_read_once_they_are_whole(folder):
    follower = MetricsFollower(folder / "metrics.jsonl", NAMES)
    assert follower.refresh() == 0 and follower.log == []
    whole = line(1)
    write(folder, line(0), whole[:20])
    assert follower.refresh() == 0 and steps(follower) == [0]
    write(folder, whole[20:])
    assert follower.refresh() == 1
    assert follower.log == [{"step": 0}, {"step": 1, "reward/mean": 1 / 8, "time/step_s": 2.0}]
    assert follower.refresh() == 2


def test_a_run_that_is_resumed_goes_back(folder):
    """The file is replaced by a shorter one, which may be longer than before when it is next looked at."""
    follower = MetricsFollower(folder / "metrics.jsonl", NAMES)
    write(folder, line(0), line(1), line(2), line(3))
    follower.refresh()
    cut(folder, 2)
    assert follower.refresh() == 2 and steps(follower) == [0, 1]
    write(folder, line(2), line(3))
    follower.refresh()
    cut(folder, 2)
    write(folder, *(line(step, **{"reward/mean": 0.9}) for step in (2, 3, 4)))
    assert follower.refresh() == 2
    assert [m.get("reward/mean") for m in follower.log] == [None, 1 / 8, 0.9, 0.9, 0.9]
    (folder / "metrics.jsonl").unlink()
    assert follower.refresh() == 0 and follower.log == []


@pytest.mark.parametrize("bad", ["{", "[]", '{"step": "1"}', '{"step": 1, "reward/mean": "\\u001b[2J"}', "[" * 99999])
def test_what_is_no_line_of_metrics_is_named(folder, bad):
    write(folder, line(0), bad + "\n")
    with pytest.raises(ValueError, match="metrics.jsonl', line 2: no metrics of a step") as told:
        MetricsFollower(folder / "metrics.jsonl", NAMES).refresh()
    assert "\x1b" not in str(told.value)


def state(folder, now=0.0):
    return RunFollower(folder, MetricsFollower(folder / "metrics.jsonl", NAMES), lambda: now).read()[0]


def test_the_pace_of_a_run_is_that_of_its_last_steps(folder):
    write(folder, line(0), line(1, **{"time/step_s": 3.0}), line(2, **{"time/step_s": 5.0}))
    read = state(folder, (folder / "metrics.jsonl").stat().st_mtime + 7)
    assert (read.num_steps, read.last_step, read.is_complete) == (4, 2, False)
    assert (read.seconds_per_step, read.seconds_left, read.age_s) == (4.0, 8.0, pytest.approx(7))
    write(folder, line(3), line(4))
    assert state(folder).is_complete
    begin(folder, num_steps=6)
    assert not state(folder).is_complete, "it goes on with more steps"


def test_a_run_that_is_being_prepared_is_waited_for(tmp_path):
    folder = tmp_path / "later"
    for prepare in (lambda: None, folder.mkdir, lambda: (folder / "config.toml").write_text("[train]\nnum_st")):
        prepare()
        assert state(folder).num_steps is None and state(folder).log == ()


def test_folders_without_a_run_are_refused(tmp_path):
    (tmp_path / "other.txt").write_text("")
    with pytest.raises(ValueError, match="holds no run: there is no config.toml"):
        state(tmp_path)
    with pytest.raises(ValueError, match="other.txt' cannot be read: .*Not a directory"):
        state(tmp_path / "other.txt")
    begin(tmp_path)
    write(tmp_path, line(0))
    for text, message in (("[train]\n", "got None"), ("[", "holds no settings"), ("train = 1\n", "train.num_steps")):
        (tmp_path / "config.toml").write_text(text)
        with pytest.raises(ValueError, match=message):
            state(tmp_path)
