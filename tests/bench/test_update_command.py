"""`treepo bench update` as a user types it."""

import pytest

from treepo.cli.main import main
from treepo.data.problem import Outcome, Verdict
from treepo.report.bench_results import read_update, write_json

SMALL = [
    *("--architecture.hidden_size", "16", "--architecture.num_layers", "1", "--architecture.num_heads", "2"),
    *("--synthetic.distinct", "200", "--synthetic.leaves", "4", "--synthetic.sharing", "[1.5, 3.0]"),
    *("--bench.repeats", "1"),
]


def test_a_table_and_a_json_file(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["bench", "update", *SMALL, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    for word in ("packed", "padded", "length-packed", "4 trajectories", "sharing 3.00"):
        assert word in text
    tables = [line for line in text.splitlines() if str(out) not in line]
    assert max(map(len, tables)) <= 80
    assert [path.name for path in out.iterdir()] == ["update.json"]
    report = read_update(out / "update.json")
    assert report.command.startswith("treepo bench update --architecture.hidden_size 16")
    assert {"python", "torch", "transformers", "threads", "processor"} <= set(report.machine)
    assert report.model["path"] == "random weights"
    assert [w.sharing for w in report.workloads] == pytest.approx([1.5, 3], rel=0.02)
    write_json(report, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (out / "update.json").read_bytes()


def test_trees_of_the_built_in_task(chain_model, tmp_path, monkeypatch):
    """The rewards are made up: this model never gives a right answer."""

    def odd_lengths(_task, asked):
        return [Verdict(float(len(text) % 2), Outcome.GRADED, None) for _, text in asked]

    monkeypatch.setattr("treepo.tasks.chain_sums.ChainSums.verify", odd_lengths)
    out = tmp_path / "out"
    options = ["--bench.trees", "task", "--task.widths", "[4]", "--task.problems", "8", "--bench.repeats", "1"]
    assert main(["bench", "update", str(chain_model), *options, "--out", str(out)]) == 0
    report = read_update(out / "update.json")
    (workload,) = report.workloads
    assert report.model["path"] == str(chain_model)
    assert 1 <= workload.num_trees <= 8
    assert workload.num_trajectories == 4 * workload.num_trees
    packed, padded, length_packed = workload.variants
    assert packed.num_forwarded == workload.num_distinct < workload.num_total == length_packed.num_forwarded
    assert padded.num_forwarded > workload.num_total, "answers differ in length"
    assert max(f.gradient_difference for f in workload.variants) < 1e-4


def test_help_lists_the_settings_of_both(capsys):
    assert main(["bench", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--grid.widths", "--engine.max_num_seqs", "--synthetic.sharing", "--task.widths", "--bench.trees"):
        assert option in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--synthetic.sharing", "[]"], "synthetic.sharing"),
        (["--synthetic.sharing", "two"], "synthetic.sharing"),
        (["--synthetic.sharing", "[20]"], "synthetic.sharing: no tree of 16 leaves"),
        (["--synthetic.leaves", "12"], "synthetic.leaves: must be a power of two"),
        (["--bench.trees", "none"], "bench.trees"),
        (["--grid.widths", "[4]"], "grid: unknown section; there are model, architecture, synthetic"),
        (["no/such/model"], "model.path: no folder"),
        (["--out", ""], "out: no value given"),
        ([*SMALL, "--out", "/dev/null/x"], "out: cannot write to"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(args, message, capsys):
    assert main(["bench", "update", *args]) == 2
    error = capsys.readouterr().err
    assert error.startswith("treepo: ") and error.count("\n") == 1
    assert message in error


def test_trajectories_that_do_not_fit_the_model_are_named(chain_model, capsys):
    assert main(["bench", "update", str(chain_model)]) == 2
    assert "exceed the model's 256 positions" in capsys.readouterr().err


def test_trees_without_a_signal_are_not_measured(chain_model, capsys):
    options = ["--bench.trees", "task", "--task.widths", "[2]", "--task.problems", "2"]
    assert main(["bench", "update", str(chain_model), *options]) == 2
    assert "task: none of 2 trees of width 2 carries a signal" in capsys.readouterr().err
