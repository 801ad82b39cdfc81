"""`treepo eval` as a user types it."""

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tests.models import save_tiny_model
from tests.parts import prepare
from tests.runs import interrupted_evaluation
from treepo.cli.main import main
from treepo.config.load import resolve
from treepo.config.schema import BUILT_IN_TASK, Settings
from treepo.engine.torch.engine import TorchEngine
from treepo.evaluate.answering import GREEDY, SAMPLED, accuracy
from treepo.evaluate.records import AnswerRecord
from treepo.evaluate.store import AnswerStore
from treepo.model.policy import load_policy
from treepo.report.terminal import Terminal
from treepo.tasks.chain_sums import ChainSums
from treepo.utils.numeric import derive_seed

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
    """avg@k and greedy accuracy as a loop over single answers gives them; the tree decodes fewer tokens."""
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
        task.eval_problems(12),
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
    with interrupted_evaluation(monkeypatch):
        assert evaluate(*args, "--out", tmp_path / "cut") == 130
    capsys.readouterr()
    assert evaluate(*args, "--out", tmp_path / "cut") == 0
    assert "32 of 70 problems were answered before" in capsys.readouterr().out
    assert answers(tmp_path / "cut") == answers(tmp_path / "whole")
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")
    costs = [json.loads((tmp_path / f / "results.json").read_text())[0]["cost"] for f in ("cut", "whole")]
    assert (
        costs[0]["tokens_decoded"]
        == costs[1]["tokens_decoded"]
        == sum(r["num_tokens"] for r in answers(tmp_path / "cut"))
    )


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
    """A user's own verifier that accepts answers to the first set and others wrong: 3 of 8 overall."""
    model = save_tiny_model(tmp_path / "model", chat=True)
    for name, answer, count in (("easy", "yes", 3), ("hard", "no", 5)):
        lines = [json.dumps({"prompt": f"{name} {i}?", "answer": answer}) for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "eval_judge.py").write_text(
        "def judge(response, answer):\n    return answer == 'yes' or response == '\\\\boxed{no}'\n"
    )
    settings = ["--verifier.use", "FunctionVerifier", "--verifier.function", "eval_judge:judge"]
    sets = ["--data", tmp_path / "easy.jsonl", tmp_path / "hard.jsonl"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert evaluate(model, *sets, "--samples", 2, *settings, "--out", tmp_path / "out") == 0
    (row,) = figures(tmp_path / "out")
    assert {s["dataset"]: s["avg"]["value"] for s in row["datasets"]} == {"easy": 1.0, "hard": 0.0}
    assert row["overall"]["avg"]["value"] == pytest.approx(3 / 8)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--samples", "0"], "samples: must be within 1..1000000000, got 0"),
        (["--problems", "0"], "problems: must be within 1..1000000000, got 0"),
        (["--problems", str(10**30)], "problems: must be within 1..1000000000, got 1000"),
        (["--model.path", "x"], "MODEL: given twice, as "),
        (["--data", "a.jsonl", "--data.eval", "b.jsonl"], "--data: given twice, as 'a.jsonl' and as --data.eval 'b"),
        (["--temperature", "1", "--engine.temperature", "2"], "--temperature: given twice, as 1.0 and as --engine.t"),
        (["--eval.num_samples", "4"], "eval.num_samples: is for training; here --samples says how many, got 4"),
        (["--repetition-penalty", "0"], "--repetition-penalty: "),
        (["--temperature", "0"], "--temperature: must be above 0; --sampling greedy takes"),
        (["--max-tokens", "0"], "--max-tokens: must be within 1..1000000000, got 0"),
        (["--max-tokens", "9999"], "--max-tokens: responses of 9999 tokens"),
        (["--json", "/no/such/folder/f.json"], "json: cannot write to '/no/such/folder/f.json'"),
        (["--sampling", "beam"], "sampling: 'beam' is none of sequential, greedy, tree"),
        (["--sampling", "tree:depht=2"], "sampling: 'tree:depht=2': tree.depht: unknown setting"),
        (
            ["--sampling", "tree:optim.lr=1"],
            "sampling: 'tree:optim.lr=1': 'optim.lr' is no setting of tree, initial_fork",
        ),
        (["--sampling", "tree:depth"], "sampling: 'tree:depth' must be tree:KEY=VALUE"),
        (["--sampling", "tree", "tree"], "sampling: 'tree' is given twice"),
        (["/no/such/model"], "MODEL: no folder '/no/such/model'"),
        (["--data", "gsm9k"], "--data: cannot read 'gsm9k': no such file or folder, and no such dataset; there"),
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


def test_a_repetition_penalty_makes_another_evaluation(
    chain_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Its answers are those of the evaluations of a training run with the same penalty; the head says so, and a folder
    holds those of one penalty alone. Folders from before there was one go on without."""
    args = [chain_model, "--problems", 4, "--samples", 2, "--sampling", "greedy", "sequential"]
    penalized, free = tmp_path / "penalized", tmp_path / "free"
    assert evaluate(*args, "--repetition-penalty", 1.5, "--out", penalized) == 0
    assert "repetition_penalty 1.5" in " ".join(capsys.readouterr().out.split())
    assert evaluate(*args, "--out", free) == 0
    assert "repetition_penalty 1" not in capsys.readouterr().out
    settings: Settings = {
        "model": {"path": str(chain_model)},
        "tree": {"depth": 4, "segment_len": 16},
        "eval": {"num_problems": 4, "num_samples": 2, "repetition_penalty": 1.5},
    }
    found: list[AnswerRecord] = []
    run = prepare(resolve(BUILT_IN_TASK, settings), tmp_path / "run", Terminal(Console(quiet=True)))
    with closing(run):
        run.evaluate(on_answers=found.extend)
    for setting, name in (("greedy", GREEDY), ("sequential", SAMPLED)):
        expected = sorted(record.response for record in found if record.setting == name)
        own, others = (sorted(a["response"] for a in answers(o) if a["setting"] == setting) for o in (penalized, free))
        assert own == expected != others

    assert evaluate(*args, "--out", penalized) == 2
    assert "eval.repetition_penalty was 1.5, is 1.0" in capsys.readouterr().err
    kept = json.loads((free / "settings.json").read_text())
    assert kept.pop("eval") == {"repetition_penalty": 1.0}
    (free / "settings.json").write_text(json.dumps(kept))
    assert evaluate(*args, "--out", free) == 0
    assert evaluate(*args, "--eval.repetition_penalty", 1.5, "--out", free) == 2
    assert "eval.repetition_penalty was 1.0, is 1.5" in capsys.readouterr().err


def own_problems(folder: Path, answer: str = "1", count: int = 3) -> Path:
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i}?", "answer": answer}) + "\n" for i in range(count)))
    return path


def test_answers_of_other_settings_or_weights_are_not_mixed(
    chain_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A folder that was begun otherwise, or with the same path holding other weights, is refused; files that were
    touched or copied, and another number of checking processes, are the same."""
    model, out = tmp_path / "model", tmp_path / "out"
    policy = load_policy(str(chain_model))
    policy.save(model)
    args = [model, "--problems", 2, "--samples", 2, "--out", out]
    assert evaluate(*args) == 0
    for setting, value in (("engine.temperature", 0.5), ("engine.top_k", 3), ("model.dtype", "bfloat16")):
        assert evaluate(*args, f"--{setting}", value) == 2
        assert f"{setting} was " in capsys.readouterr().err
    assert evaluate(*args, "--train.autocast", "bfloat16") == 2
    assert evaluate(*args, "--train.seed", 1) == 2
    os.utime(model / "model.safetensors")
    assert evaluate(*args, "--verifier_pool.num_workers", 1) == 0
    policy.model.get_parameter("model.norm.weight").data.mul_(0.5)
    policy.save(model)
    assert evaluate(*args) == 2
    assert "from before its weights changed" in capsys.readouterr().err


def test_answers_to_other_problems_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """An edited dataset, a changed chat template or verifier would make one metric of two different measurements."""
    model, out = save_tiny_model(tmp_path / "model", chat=True), tmp_path / "out"
    args = [model, "--data", own_problems(tmp_path), "--samples", 1, "--out", out]
    assert evaluate(*args) == 0
    own_problems(tmp_path, count=5)
    assert evaluate(*args) == 0
    assert figures(out)[0]["overall"]["num_problems"] == 5
    own_problems(tmp_path, answer="2")
    assert evaluate(*args) == 2
    assert "its ground truth or the model's tokenizer changed" in capsys.readouterr().err
    own_problems(tmp_path)
    template = model / "chat_template.jinja"
    template.write_text(template.read_text().replace("<user>", "<user> "))
    assert evaluate(*args) == 2
    assert "from before its prompt" in capsys.readouterr().err


def test_a_checker_that_was_edited_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Verdicts of two functions under one name would be mixed."""
    model = save_tiny_model(tmp_path / "model", chat=True)
    code = tmp_path / "edited_judge.py"
    code.write_text("def judge(response, answer):\n    return True\n")
    monkeypatch.syspath_prepend(tmp_path)
    verifier = ["--verifier.use", "FunctionVerifier", "--verifier.function", "edited_judge:judge"]
    args = [model, "--data", own_problems(tmp_path), "--samples", 1, *verifier, "--out", tmp_path / "out"]
    assert evaluate(*args) == 0
    code.write_text("def judge(response, answer):\n    return False or True\n")
    assert evaluate(*args) == 2
    assert "verifier.code was " in capsys.readouterr().err


def test_a_failed_try_binds_nothing(chain_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A model that was not there the first time is not taken for one whose weights changed."""
    late, out = tmp_path / "late", tmp_path / "out"
    late.mkdir()
    assert evaluate(late, "--problems", 2, "--samples", 1, "--out", out) == 2
    load_policy(str(chain_model)).save(late)
    assert evaluate(late, "--problems", 2, "--samples", 1, "--out", out) == 0
    assert capsys.readouterr().err.count("\n") == 1


def test_one_process_at_a_time(chain_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Two in one folder kept the same answers twice, and none could read the folder any more."""
    with AnswerStore(tmp_path / "out").lock():
        assert evaluate(chain_model, "--problems", 2, "--samples", 1, "--out", tmp_path / "out") == 2
    assert "another process writes to" in capsys.readouterr().err
    assert evaluate(chain_model, "--problems", 2, "--samples", 1, "--out", tmp_path / "out") == 0


def test_damaged_answers_are_found_before_a_model_is_loaded(
    chain_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """In one line with exit code 2, as all that is wrong with a folder."""
    args = [chain_model, "--problems", 2, "--samples", 1, "--out", tmp_path / "out"]
    assert evaluate(*args) == 0
    (tmp_path / "out" / "part-000009-x.parquet").write_bytes(b"no Parquet")
    capsys.readouterr()
    assert evaluate(*args) == 2
    error = capsys.readouterr().err
    assert "part-000009-x.parquet' cannot be read as answers" in error and error.count("\n") == 1
    (tmp_path / "out" / "part-000009-x.parquet").unlink()
    (tmp_path / "out" / "fingerprints.json").write_text("[")
    assert evaluate(*args) == 2
    assert "fingerprints.json' cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["thesis.txt", "unfinished-thesis.txt", "settings.json", "results.json"])
def test_other_folders_are_left_alone(
    name: str, chain_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """What is somebody else's is neither overwritten nor removed."""
    (tmp_path / name).write_text('{"mine": 1}')
    assert evaluate(chain_model, "--problems", 2, "--samples", 1, "--out", tmp_path) == 2
    assert capsys.readouterr().err.startswith(f"treepo: out: '{tmp_path}' holds")
    assert (tmp_path / name).read_text() == '{"mine": 1}'


def test_the_built_in_task_alone(monkeypatch: pytest.MonkeyPatch, chain_model: Path, tmp_path: Path) -> None:
    """Without problems, models and a number: as many as a training run would ask; there are tens of millions."""
    monkeypatch.setattr("treepo.run.model_path.find_base_model", lambda *_: str(chain_model))
    assert evaluate("--samples", 1, "--sampling", "greedy", "--eval.num_problems", 3, "--out", tmp_path / "out") == 0
    (row,) = figures(tmp_path / "out")
    assert (row["model"], row["overall"]["num_problems"]) == ("base model", 3)


def test_recipes_for_training_do_not_stand_in_the_way(chain_model: Path, tmp_path: Path) -> None:
    """Shorter answers than the recipe's reward or fewest leaves are made for."""
    recipe = tmp_path / "run.toml"
    recipe.write_text(
        "[reward]\noverlong = 1.0\n[tree]\nmin_width = 4\ntoken_budget = 100\nwidth = 8\n[eval]\nnum_problems = 1\n"
    )
    data = ["--data", own_problems(tmp_path), "--prompt.question", "{question}"]
    args = [chain_model, *data, "--recipe", recipe, "--samples", 2]
    assert evaluate(*args, "--data.prompt_field", "prompt", "--out", tmp_path / "all") == 0
    (row,) = figures(tmp_path / "all")
    assert row["overall"]["num_problems"] > 2, "a recipe's eval.num_problems is for training"


def test_a_number_of_problems_that_is_typed_counts(chain_model: Path, tmp_path: Path) -> None:
    """`--eval.num_problems 2` was passed over without a word where datasets were given: all problems were asked."""
    args = [chain_model, "--data", own_problems(tmp_path), "--samples", 1, "--out", tmp_path / "out"]
    assert evaluate(*args, "--eval.num_problems", 2) == 0
    assert figures(tmp_path / "out")[0]["overall"]["num_problems"] == 2
