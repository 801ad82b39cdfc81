"""Trackers of a whole run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.parts import prepare
from tests.report.test_trackers import Noting
from tests.run.test_run import QUIET, settings
from treepo.cli.main import main
from treepo.config.load import resolve, to_toml
from treepo.config.schema import TrackingSettings
from treepo.errors import TrackerError
from treepo.report.trackers import TensorBoard, Trackio, WandB
from treepo.run import tracking as run_tracking
from treepo.run.train import train


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"trackers": ["mlflow"]}, "tracking.trackers: must be among tensorboard, trackio, wandb, got 'mlflow'"),
        ({"trackers": ["wandb", "wandb"]}, r"tracking.trackers: must differ, got \['wandb', 'wandb'\]"),
        ({"sample_problems": -1}, "tracking.sample_problems: "),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        resolve({"tracking": wrong})


def test_a_single_tracker_needs_no_brackets():
    config = resolve({"tracking": {"trackers": "wandb", "offline": True}})
    assert config.tracking == TrackingSettings(("wandb",), offline=True)
    assert 'trackers = [\n    "wandb",\n]' in to_toml(config)


def test_each_name_has_its_class(tmp_path):
    made = [
        run_tracking.make_tracker(name, TrackingSettings(), tmp_path) for name in ("tensorboard", "trackio", "wandb")
    ]
    assert [type(tracker) for tracker in made] == [TensorBoard, Trackio, WandB]


def test_one_that_is_not_installed_is_told_in_a_line_before_anything_is_made(
    chain_model, tmp_path, capsys, monkeypatch
):
    """A folder of its name in the current one, as wandb leaves it, was once taken for the package."""
    (tmp_path / "trackio").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    if run_tracking.find_spec("trackio").origin is not None:
        monkeypatch.setattr(run_tracking, "find_spec", lambda _: None)
    assert main(["train", "--model.path", str(chain_model), "--out", "out", "--tracking.trackers", "trackio"]) == 2
    expected = "treepo: tracking.trackers: trackio is not installed: pip install 'treepo[trackio]'\n"
    assert capsys.readouterr().err == expected
    assert not Path("out").exists()


def test_every_extra_that_is_named_exists():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for name in ("tensorboard", "trackio", "wandb"):
        assert f'\n{name} = ["{name}>=' in text


def use_tracker(monkeypatch: pytest.MonkeyPatch, tracker: Noting) -> None:
    """Whatever the settings name, it is this one, and installed."""
    monkeypatch.setattr("treepo.run.folder.check_installed", lambda _: None)
    monkeypatch.setattr(run_tracking, "make_tracker", lambda *_: tracker)


def test_a_run_tells_its_trackers_and_keeps_samples(chain_model, tmp_path, monkeypatch, caplog):
    """A tracker that fails in the middle is said, and the run has all its files."""
    tracker = Noting("table")
    use_tracker(monkeypatch, tracker)
    small = {"num_steps": 3, "prompts_per_step": 3, "save_trees_every": 2}
    tracking = {"trackers": ["wandb"], "sample_problems": 2, "sample_answers": 3}
    config = settings(chain_model, train=small, tracking=tracking, eval={"num_problems": 5, "num_samples": 1})
    train(prepare(config, tmp_path / "out", QUIET), tmp_path / "out", QUIET)
    assert tracker.calls == [("start", "out"), ("log", 0), ("table", 1)]
    assert caplog.text.count("wandb failed and gets nothing more") == 1
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    trained, held_out = ([row for row in samples if row["split"] == split] for split in ("train", "eval"))
    # Trees of the first and the last step are kept, whatever the interval.
    assert len(trained) == 3 * 2 * 3 and {row["step"] for row in trained} == {1, 2, 3}
    assert sorted(path.stem for path in (tmp_path / "out" / "trees").iterdir()) == [f"step-{i:06d}" for i in (1, 2, 3)]
    assert all(row["outcome"] and row["ground_truth"] and row["question"] for row in samples)
    assert all(sum(row["parts"].values()) == pytest.approx(row["reward"]) for row in trained)
    asked = [[row["problem"] for row in held_out if row["step"] == step] for step in (0, 3)]
    assert asked[0] == asked[1] and len(asked[0]) == len(set(asked[0])) > 0, "the same problems early and late"
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 4


def test_one_that_cannot_start_ends_the_run_at_once(chain_model, tmp_path, monkeypatch):
    use_tracker(monkeypatch, Noting("start"))
    run = prepare(settings(chain_model), tmp_path / "out", QUIET)
    run = replace(run, config=replace(run.config, tracking=TrackingSettings(("wandb",))))
    with pytest.raises(TrackerError, match=r"^tracking.trackers: wandb cannot be started: ConnectionError: no answer$"):
        train(run, tmp_path / "out", QUIET)
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
