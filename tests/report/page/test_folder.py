"""A run folder is read whatever state the run left it in."""

import json

from tests.report.page.runs import write_run
from treepo.report.page.payload import ENVIRONMENT_NAME


def test_a_line_that_was_not_written_to_its_end_is_not_there(tmp_path):
    folder = write_run(tmp_path / "run", num_steps=2)
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "reward/me')
    assert list(folder.metrics()) == [0, 1]


def test_a_step_that_stands_there_twice_is_as_it_was_last_written(tmp_path):
    folder = write_run(tmp_path / "run", num_steps=2)
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "reward/mean": 0.5, "is": true, "text": "no number"}\nnull\n[]\n')
    assert folder.metrics()[1] == {"reward/mean": 0.5}


def test_of_a_run_that_only_began_there_is_nothing_but_its_settings(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder.path / "metrics.jsonl").unlink()
    assert folder.is_run()
    assert (folder.metrics(), folder.tree_files(), folder.environment()) == ({}, {}, {})
    assert folder.settings() == {"credit.use": "GRPO", "tree.width": 4}


def test_settings_that_cannot_be_read_are_none(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder.path / "config.toml").write_text("[tree\nwidth")
    assert folder.settings() == {}


def test_the_environment_is_that_of_the_last_process_with_the_time_of_the_first(tmp_path):
    folder = write_run(tmp_path / "run")
    lines = [{"started": "monday", "threads": 1}, {"started": "tuesday", "threads": 2}]
    (folder.path / ENVIRONMENT_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert folder.environment() == {"started": "monday", "resumed": "tuesday", "threads": "2"}


def test_files_of_trees_come_in_the_order_of_their_steps(tmp_path):
    """Names have six digits, and more from step 1,000,000 on."""
    folder = write_run(tmp_path / "run")
    trees = folder.path / "trees"
    trees.mkdir()
    for name in ("step-1000000.parquet", "step-000010.parquet", "step-000009.parquet", "step-x.parquet", "other"):
        (trees / name).touch()
    assert list(folder.tree_files()) == [9, 10, 1_000_000]
