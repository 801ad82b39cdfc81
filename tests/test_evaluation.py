"""`treepo eval` as a user types it."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.models import save_tiny_model
from treepo.cli import main
from treepo.engine.torch import TorchEngine
from treepo.evaluate import AnswerStore, accuracy
from treepo.model.policy import load_policy
from treepo.seeds import derive_seed
from treepo.task.chain_sums import ChainSums

SMALL = ["--tree.depth", "4", "--tree.segment_len", "16"]


def evaluate(*args: object) -> int:
    return main(["eval", *map(str, args), *SMALL])


def figures(out: Path) -> list[dict[str, Any]]:
    """What results.json holds, without costs."""
    rows = json.loads((out / "results.json").read_text())
    return [{k: v for k, v in row.items() if k not in {"cost", "relative_cost", "trajectories_per_s"}} for row in rows]


def answers(out: Path) -> list[dict[str, Any]]:
    rows = pq.read_table(out / "answers.parquet").to_pylist()
    return sorted(rows, key=lambda r: (r["model"], r["setting"], r["problem"], r["sample"]))


def test_figures_are_those_of_the_policy(chain_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """avg@k and greedy accuracy as the loop over single answers has them; the tree decodes fewer tokens."""
    out = tmp_path / "out"
    wide = "tree:num_children=3,initial_fork.low=3,initial_fork.high=3"
    ways = ["--samples", 3, "--sampling", "greedy", "sequential", "tree", wide]
    assert evaluate(chain_model, "--problems", 12, *ways, "--out", out, "--json", tmp_path / "copy.json") == 0
    by_setting = {row["setting"]: row for row in json.loads((tmp_path / "copy.json").read_text())}
    assert list(by_setting) == ["greedy", "sequential", "tree", wide]
    policy = load_policy(str(chain_model))
    task = ChainSums(policy.tokenizer, 0)
    engine, problems, seed = (
        TorchEngine(policy.model, policy.eos_ids),
        task.held_out_problems(12),
        derive_seed(0, "eval"),
    )
    for setting, num, temperature in (("greedy", 1, 0.0), ("sequential", 3, 1.0)):
        expected = accuracy(engine, task, problems, policy.decode, 64, num, temperature, seed)
        assert by_setting[setting]["overall"]["avg"]["value"] == pytest.approx(expected)
    assert by_setting["tree"]["cost"]["tokens_decoded"] < by_setting["sequential"]["cost"]["tokens_decoded"]
    assert by_setting["sequential"]["cost"]["tokens_decoded"] == sum(
        row["num_tokens"] for row in answers(out) if row["setting"] == "sequential"
    )
    assert "answers.parquet" in capsys.readouterr().out


def test_an_interruption_repeats_and_loses_nothing(
    chain_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Going on asks what is missing alone, and ends with the answers and figures of a run that was not interrupted."""
    args = [chain_model, "--problems", 70, "--samples", 2]
    assert evaluate(*args, "--out", tmp_path / "whole") == 0
    append, num_parts = AnswerStore.append, 0

    def interrupted(*given: Any) -> None:
        nonlocal num_parts
        num_parts += 1
        if num_parts == 2:
            raise KeyboardInterrupt
        append(*given)

    with monkeypatch.context() as patch:
        patch.setattr(AnswerStore, "append", interrupted)
        assert evaluate(*args, "--out", tmp_path / "cut") == 130
    capsys.readouterr()
    assert evaluate(*args, "--out", tmp_path / "cut") == 0
    assert "32 of 70 problems were answered before" in capsys.readouterr().out
    assert answers(tmp_path / "cut") == answers(tmp_path / "whole")
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")


def test_models_and_settings_add_up_in_one_folder(chain_model: Path, tmp_path: Path) -> None:
    """Two models in one command, and a further way and more problems later; what was answered stays as it was."""
    other = tmp_path / "other"
    policy = load_policy(str(chain_model))
    policy.model.get_parameter("model.norm.weight").data.mul_(0.5)
    policy.save(other)
    out = tmp_path / "out"
    assert evaluate(chain_model, other, "--problems", 4, "--samples", 2, "--out", out) == 0
    first = answers(out)
    assert evaluate(chain_model, "--problems", 6, "--samples", 2, "--sampling", "tree", "sequential", "--out", out) == 0
    assert [row for row in answers(out) if row in first] == first
    rows = json.loads((out / "results.json").read_text())
    assert [(Path(r["model"]), r["setting"], r["overall"]["num_problems"]) for r in rows] == [
        (chain_model, "sequential", 6),
        (other, "sequential", 4),
        (chain_model, "tree", 6),
    ]


def test_sets_are_told_apart_and_weighed_by_size(tmp_path: Path) -> None:
    """A checker of one's own that finds answers to the first set right and others wrong: 3 of 8 overall."""
    model = save_tiny_model(tmp_path / "model", chat=True)
    for name, answer, count in (("easy", "yes", 3), ("hard", "no", 5)):
        lines = [json.dumps({"prompt": f"{name} {i}?", "answer": answer}) for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "eval_judge.py").write_text(
        "def judge(response, answer):\n    return answer == 'yes' or response == '\\\\boxed{no}'\n"
    )
    settings = ["--checker.use", "FunctionChecker", "--checker.function", "eval_judge:judge"]
    sets = ["--data", tmp_path / "easy.jsonl", tmp_path / "hard.jsonl"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert evaluate(model, *sets, "--samples", 2, *settings, "--out", tmp_path / "out") == 0
    (row,) = figures(tmp_path / "out")
    assert {s["source"]: s["avg"]["value"] for s in row["sets"]} == {"easy": 1.0, "hard": 0.0}
    assert row["overall"]["avg"]["value"] == pytest.approx(3 / 8)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--samples", "0"], "samples must be at least 1, got 0"),
        (["--problems", "0"], "problems must be at least 1, got 0"),
        (["--sampling", "beam"], "sampling: 'beam' is none of sequential, greedy, tree"),
        (["--sampling", "tree:depht=2"], "sampling: 'tree:depht=2': tree.depht: unknown setting"),
        (
            ["--sampling", "tree:optim.lr=1"],
            "sampling: 'tree:optim.lr=1': 'optim.lr' is no setting of tree, initial_fork",
        ),
        (["--sampling", "tree:depth"], "sampling: 'tree:depth' must be tree:KEY=VALUE"),
        (["--sampling", "tree", "tree"], "sampling: 'tree' is given twice"),
        (["/no/such/model"], "model.path: no folder '/no/such/model'"),
        (["--data", "gsm9k"], "data.held_out: cannot read 'gsm9k': no such file or folder, and no such set; there"),
        (["--recipe", "none.toml"], "recipe: cannot read 'none.toml'"),
    ],
)
def test_mistakes_are_told_in_one_line(
    args: list[str], message: str, chain_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """With exit code 2."""
    models = [] if args[0].startswith("/no") else [str(chain_model)]
    assert evaluate(*models, *args, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"treepo: {message}") and error.count("\n") == 1


def test_answers_of_other_settings_or_weights_are_not_mixed(
    chain_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A folder that was begun otherwise, or with the same path holding other weights, is refused."""
    model, out = tmp_path / "model", tmp_path / "out"
    policy = load_policy(str(chain_model))
    policy.save(model)
    args = [model, "--problems", 2, "--samples", 2, "--out", out]
    assert evaluate(*args) == 0
    assert evaluate(*args, "--engine.temperature", 0.5) == 2
    assert "engine.temperature was 1.0, is 0.5" in capsys.readouterr().err
    policy.model.get_parameter("model.norm.weight").data.mul_(0.5)
    policy.save(model)
    assert evaluate(*args) == 2
    assert "from before its weights changed" in capsys.readouterr().err
