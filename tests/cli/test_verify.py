"""`treepo verify`: verdicts on the rows of a file, as a table, as JSON, and against expected ones."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from treepo.cli.main import main

CASES = Path(__file__).parents[1] / "verify" / "cases"
NUMERIC = ["--verifier.use", "NumericVerifier", "--verifier_pool.num_workers", "1"]
ROWS = [
    {"answer": "42", "response": "so \\boxed{42}", "label": True, "kind": "plain"},
    {"answer": "1234", "response": "\\boxed{1\\,234}", "label": True, "kind": "plain"},
    {"answer": "24", "response": "\\boxed{48 24}", "label": False, "kind": "several"},
    {"answer": "42", "response": "It is 42.", "label": False, "kind": "none"},
]


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return write(tmp_path / "rows.jsonl", *ROWS)


def test_counts_and_examples_are_shown(path, capsys):
    assert main(["verify", path, *NUMERIC]) == 0
    shown = capsys.readouterr().out
    assert "right: 50.00%" in shown
    counts = [line.split() for line in shown.splitlines()]
    assert ["graded", "2", "50.0%", "2"] in counts
    assert ["unparsed", "1", "25.0%", "0"] in counts
    assert ["no", "answer", "1", "25.0%", "0"] in counts
    assert "rows.jsonl:3: judged wrong (unparsed)" in shown and "rows.jsonl:1" not in shown
    assert "answer     '24'" in shown and "response   '\\\\boxed{48 24}'" in shown


def test_json_is_an_object_per_row_and_nothing_else_on_standard_output(path, capsys):
    assert main(["verify", path, "--json", *NUMERIC]) == 0
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["correct"] for row in rows] == [1.0, 1.0, 0.0, 0.0]
    assert [row["outcome"] for row in rows] == ["graded", "graded", "unparsed", "no answer"]
    assert [row["extracted_answer"] for row in rows] == ["42", "1234", "48 24", None]
    assert [row["ground_truth"] for row in rows] == [row["answer"] for row in ROWS]
    assert rows[2]["row"] == "rows.jsonl:3"
    assert "right: 50.00%" in captured.err


def test_messages_do_not_spoil_json(path, capsys):
    """What a verifier raises is told on standard error."""
    args = ["--verifier.use", "FunctionVerifier", "--verifier.function", "tests.verify.judges:judge"]
    rows = [{"answer": "a", "response": "raise"}, "no JSON", {"answer": "a", "response": "a"}]
    write(Path(path), *rows)
    assert main(["verify", path, "--json", "--data.on_bad_record", "skip", *args]) == 0
    captured = capsys.readouterr()
    outcomes = [json.loads(line)["outcome"] for line in captured.out.splitlines()]
    assert outcomes == ["crashed", "graded"]
    assert "ZeroDivisionError" in captured.err and "1 bad rows skipped: rows.jsonl:2: not JSON" in captured.err


def test_agreement_with_expected_verdicts(path, capsys):
    assert main(["verify", path, "--expected", "label", *NUMERIC]) == 0
    shown = capsys.readouterr().out
    assert "agreement: 4 of 4 (100.00%)\n" in shown and "rows.jsonl" not in shown


def test_rows_that_differ_are_all_shown_and_set_the_exit_code(path, capsys):
    assert main(["verify", path, "--expected", "label", *NUMERIC[:2], "--verifier.rel_tol", "0.5"]) == 0
    capsys.readouterr()
    rows = [row | {"label": not row["label"], "response": row["response"] + " \x1b[2J" + "x" * 300} for row in ROWS]
    write(Path(path), *rows)
    assert main(["verify", path, "--expected", "label", *NUMERIC]) == 1
    shown = capsys.readouterr().out
    assert "agreement: 0 of 4 (0.00%); 2 judged better than expected, 2 judged worse" in shown
    assert "rows.jsonl:1: expected wrong, judged right (graded)" in shown
    assert "rows.jsonl:4: expected right, judged wrong (no answer)" in shown
    assert "\x1b" not in shown and max(map(len, shown.splitlines())) < 250


@pytest.mark.parametrize(
    ("written", "expected"), [("true", 1.0), ("Wrong", 0.0), ("1", 1.0), (0, 0.0), (0.5, 0.5), (False, 0.0)]
)
def test_how_an_expected_verdict_may_be_written(written, expected, tmp_path, capsys):
    path = write(tmp_path / "rows.jsonl", ROWS[0] | {"label": written})
    assert main(["verify", path, "--expected", "label", "--json", *NUMERIC]) == int(expected != 1)
    assert json.loads(capsys.readouterr().out)["expected"] == expected


def test_fields_by_setting_in_any_kind_of_file(tmp_path, capsys):
    """Nested fields, GSM8K's rationales, Parquet, a null response, and the tag that a model was asked for."""
    table = pa.table({"gold": [{"text": "so\n#### 7"}] * 2, "out": ["<answer>7</answer>", None]})
    pq.write_table(table, tmp_path / "rows.parquet")
    args = ["--data.answer_field", "gold.text", "--data.answer_after", "####", "--data.response_field", "out"]
    assert main(["verify", str(tmp_path / "rows.parquet"), "--json", *args, "--verifier.extract_from", "tag"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["correct"], row["outcome"]) for row in rows] == [(1.0, "graded"), (0.0, "no answer")]
    (tmp_path / "rows.csv").write_text("answer,response\n7,\\boxed{7}\n")
    assert main(["verify", str(tmp_path / "rows.csv"), "--json", *NUMERIC]) == 0
    assert json.loads(capsys.readouterr().out)["correct"] == 1.0


def test_a_named_format_says_where_the_known_answer_is(tmp_path, capsys):
    path = write(tmp_path / "rows.jsonl", {"question": "?", "answer": "3+4\n#### 7", "response": "\\boxed{7}"})
    assert main(["verify", f"gsm8k={path}", "--json", *NUMERIC]) == 0
    assert json.loads(capsys.readouterr().out)["ground_truth"] == "7"


def test_standard_input_is_read(monkeypatch, capsys):
    class Stdin:
        buffer = io.BytesIO(json.dumps(ROWS[0]).encode())

    monkeypatch.setattr("sys.stdin", Stdin())
    assert main(["verify", "-", "--json", *NUMERIC]) == 0
    assert json.loads(capsys.readouterr().out)["correct"] == 1.0


def test_other_columns_reach_the_verifier(path, tmp_path, monkeypatch, capsys):
    (tmp_path / "kind_judge.py").write_text("def judge(response, ground_truth, kind):\n    return kind == 'plain'\n")
    monkeypatch.syspath_prepend(tmp_path)
    args = ["--verifier.use", "FunctionVerifier", "--verifier.function", "kind_judge:judge"]
    assert main(["verify", path, "--json", *args]) == 0
    assert [json.loads(line)["correct"] for line in capsys.readouterr().out.splitlines()] == [1.0, 1.0, 0.0, 0.0]


def test_the_verifier_of_a_recipe_is_tested(path, tmp_path, capsys):
    """With the fields of its answers; its datasets and its other sections are not looked at."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        '[data]\ntrain = "none"\nanswer_field = "known"\n[tree]\nwidth = 2\n'
        '[verifier]\nuse = "NumericVerifier"\nabs_tol = 1\n'
    )
    write(Path(path), {"known": "41", "response": "\\boxed{42}"})
    assert main(["verify", path, "--json", "--recipe", str(recipe)]) == 0
    assert json.loads(capsys.readouterr().out)["correct"] == 1.0
    assert main(["verify", path, "--json", "--recipe", str(recipe), "--verifier.abs_tol", "0.5"]) == 0
    assert json.loads(capsys.readouterr().out)["correct"] == 0.0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "verify: no file given"),
        (["no.jsonl"], "verify: cannot read 'no.jsonl': no such file or folder"),
        (["PATH", "--expected", "kind"], "verify: rows.jsonl:1: field 'kind' must be true, false or a number from 0"),
        (["PATH", "--expected", "none"], "verify: rows.jsonl:1: no field 'none'; there are ["),
        (["PATH", "--data.answer_field", "gold"], "verify: rows.jsonl:1: no field 'gold'"),
        (["PATH", "--data.response_field", "out"], "verify: rows.jsonl:1: no field 'out'"),
        (["PATH", "--data.train", "x"], "data.train: unknown setting"),
        (["PATH", "--tree.width", "2"], "tree: unknown section; there are data, verifier, verifier_pool"),
        (["PATH", "--verifier.tag", "a"], "verifier.tag: needs extract_from"),
        (["PATH", "--verifier.use", "FunctionVerifier", "--verifier.function", "no:one"], "verifier.function: cannot"),
    ],
)
def test_mistakes_are_one_line(args, message, path, capsys):
    assert main(["verify", *(path if arg == "PATH" else arg for arg in args)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"treepo: {message}") and error.count("\n") == 1


def test_rows_that_cannot_be_used_are_named_or_skipped(path, capsys):
    write(Path(path), *ROWS[:2], {"response": "x"}, {"answer": "", "response": "x"})
    assert main(["verify", path, *NUMERIC]) == 2
    assert "treepo: verify: rows.jsonl:3: no field 'answer'" in capsys.readouterr().err
    assert main(["verify", path, "--data.on_bad_record", "skip", *NUMERIC]) == 0
    shown = capsys.readouterr().out
    assert "2 bad rows skipped: rows.jsonl:3: no field 'answer'" in shown and "right: 100.00%" in shown


def test_no_model_library_is_loaded(path):
    code = f"""
import sys
from treepo.cli.main import main
assert main(["verify", {path!r}, *{NUMERIC!r}]) == 0
assert not {{"torch", "transformers", "vllm"}} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("cases", "args"),
    [
        ("answers", []),
        ("numbers", ["--verifier.use", "NumericVerifier"]),
        ("places", ["--verifier.use", "FunctionVerifier", "--verifier.function", "tests.verify.judges:at_place"]),
    ],
)
def test_cases_with_known_verdicts(cases, args, capsys):
    """As users test a verifier on their data: every verdict of the command is the expected one."""
    code = main(["verify", str(CASES / f"{cases}.jsonl"), "--expected", "correct", *args])
    assert code == 0, capsys.readouterr().out


def test_a_verifier_that_crashes_on_every_row_fails(tmp_path, monkeypatch, capsys):
    """It said so in warnings, and ended with exit code 0."""
    (tmp_path / "always_crashing.py").write_text("def judge(response, ground_truth):\n    raise OSError('gone')\n")
    monkeypatch.chdir(tmp_path)
    rows = write(tmp_path / "rows.jsonl", *ROWS)
    verifier = ["--verifier.use", "FunctionVerifier", "--verifier.function", "always_crashing:judge"]
    assert main(["verify", rows, *verifier, "--verifier_pool.num_workers", "1"]) == 2
    assert "verifier: no verdict on any of 4 rows" in capsys.readouterr().err
