"""`treepo bench rollout` as a user types it."""

import pytest

from treepo.cli.main import main
from treepo.report.bench_results import read_rollout, write_json

SMALL = [
    *("--architecture.hidden_size", "16", "--architecture.num_layers", "1", "--architecture.num_heads", "2"),
    *("--grid.widths", "[4]", "--grid.depths", "[2, 3]", "--grid.segment_lens", "[3]", "--prompts.count", "2"),
    *("--bench.repeats", "1", "--bench.plain_batches", "[8]"),
]


def test_a_table_and_a_json_file(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["bench", "rollout", *SMALL, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    for word in ("tree 2x3 k2 b2", "tree 3x3 k2 b2", "sequential", "plain 8"):
        assert word in text
    assert f"`treepo report {out}` draws them" in text.replace("\n", "")
    assert [path.name for path in out.iterdir()] == ["rollout.json"]
    report = read_rollout(out / "rollout.json")
    assert report.command.startswith("treepo bench rollout --architecture.hidden_size 16")
    assert {"python", "torch", "transformers", "threads", "processor"} <= set(report.machine)
    assert report.settings["grid"]["depths"] == [2, 3]
    assert [len(w.variants) for w in report.workloads] == [3, 3]
    write_json(report, tmp_path / "again.json")
    assert read_rollout(tmp_path / "again.json") == report
    assert (tmp_path / "again.json").read_bytes() == (out / "rollout.json").read_bytes()


def test_a_model_may_be_given(chain_model, capsys):
    assert main(["bench", "rollout", str(chain_model), *SMALL[6:]]) == 0
    assert "tree 3x3" in capsys.readouterr().out


def test_help_lists_every_setting(capsys):
    assert main(["bench", "rollout", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--grid.widths", "--bench.repeats", "--architecture.hidden_size", "--engine.max_num_seqs"):
        assert option in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["rollou"], "invalid choice: 'rollou'"),
        (["rollout", "--grid.widths", "four"], "grid.widths"),
        (["rollout", "--grid.widths", "[]"], "grid.widths"),
        (["rollout", "--grid.widths", "[0]"], "grid.widths"),
        (["rollout", "--grid.depths", "[99999999]"], "grid.depth: must be within"),
        (["rollout", "--prompts.min_len", "90"], "prompts.min_len: must be at most max_len"),
        (["rollout", "--architecture.hidden_size", "100"], "architecture.hidden_size"),
        (["rollout", "--architecture.num_kv_heads", "3"], "architecture.num_heads"),
        (["rollout", "--train.seed", "1"], "train: unknown section; there are model, architecture, grid"),
        (["rollout", "no/such/model"], "model.path: no folder"),
        (["rollout", "--out", ""], "out: no value given"),
        (["rollout", *SMALL, "--out", "/dev/null/x"], "out: cannot write to"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(args, message, capsys):
    assert main(["bench", *args]) == 2
    error = capsys.readouterr().err
    assert error.startswith("treepo: ") and error.count("\n") == 1
    assert message in error


def test_a_report_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "rollout.json").write_text("kept")
    assert main(["bench", "rollout", *SMALL, "--out", str(tmp_path)]) == 2
    assert "already holds rollout.json" in capsys.readouterr().err
    assert (tmp_path / "rollout.json").read_text() == "kept"
