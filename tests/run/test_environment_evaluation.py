"""`treepo eval` and `treepo sample` in an environment of several turns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import treepo
from tests.envs.test_training import Echo
from tests.models import save_tiny_model
from tests.runs import interrupted_evaluation
from treepo.cli.main import main
from treepo.data.problem import Problem
from treepo.errors import EnvironmentFailedError
from treepo.report.trees import read_trees

ENVIRONMENT = ["--environment.factory", "tests.envs.test_training:Echo", "--environment.max_observed_tokens", "64"]
SMALL = ["--tree.depth", "3", "--tree.segment_len", "16", *ENVIRONMENT]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "chat", chat=True, seed=3)


def evaluate(model: Path, out: Path, *args: object) -> int:
    rows = out.parent / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{i}?"}) + "\n" for i in range(33)))
    return main(["eval", str(model), "--data", str(rows), "--out", str(out), *SMALL, *map(str, args)])


def answers(out: Path) -> list[dict[str, Any]]:
    rows = pq.read_table(out / "answers.parquet").to_pylist()
    return sorted(rows, key=lambda row: (row["setting"], row["problem"], row["sample"]))


def test_answers_hold_their_turns_and_count_by_what_the_environment_gave(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Each answer is an episode: the environment gives the same to the same texts. All ways of sampling step it."""
    args = ["--samples", 3, "--problems", 4, "--sampling", "sequential", "greedy", "tree"]
    assert evaluate(model, tmp_path / "out", *args) == 0
    assert "Mean reward of the environment" in capsys.readouterr().out
    rows = answers(tmp_path / "out")
    assert {row["setting"] for row in rows} == {"sequential", "greedy", "tree"}
    num_replies = 0
    for row in rows:
        echo, turns, rewards = Echo(), json.loads(row["turns"] or "[]"), []
        echo.reset(Problem(row["problem"], row["prompt"], (0,), ""))
        for turn, reply in zip(turns[::2], [*turns[1::2], None], strict=False):
            assert turn["role"] == "assistant"
            if turn["reward"] is None:
                assert reply is None and row["stop"] in {"length", "depth", "repetition"}
                continue
            answered = echo.step(turn["text"])
            rewards.append(answered.reward)
            assert turn["reward"] == answered.reward
            if reply is not None:
                num_replies += 1
                assert reply["role"] == "user" and f"{len(turn['text'])} letters" in reply["text"]
        assert row["correct"] == sum(rewards) and row["outcome"] == "unverified"
        assert row["response"] == "".join(turn["text"] for turn in turns[::2]) or not turns
    assert num_replies > 3
    results = {row["setting"]: row["overall"] for row in json.loads((tmp_path / "out" / "results.json").read_text())}
    own = np.array([row["correct"] for row in rows if row["setting"] == "sequential"]).reshape(4, 3)
    assert results["sequential"]["avg"]["value"] == pytest.approx(own.mean())
    assert results["sequential"]["pass_at"]["3"]["value"] == pytest.approx(own.max(axis=1).mean())


def test_an_interrupted_evaluation_goes_on_and_another_environment_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    args = ["--samples", 1, "--max-tokens", 16]
    assert evaluate(model, tmp_path / "whole", *args) == 0
    with interrupted_evaluation(monkeypatch):
        assert evaluate(model, tmp_path / "cut", *args) == 130
    assert evaluate(model, tmp_path / "cut", *args) == 0
    assert answers(tmp_path / "cut") == answers(tmp_path / "whole")
    capsys.readouterr()
    assert evaluate(model, tmp_path / "cut", *args, "--environment.max_turns", 3) == 2
    assert "environment.max_turns was 8, is 3" in capsys.readouterr().err


def test_a_sampled_tree_shows_who_wrote_what(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Without a prompt: the environment writes it."""
    monkeypatch.setenv("COLUMNS", "300")
    out = tmp_path / "tree.parquet"
    assert main(["sample", str(model), *SMALL, "--tree.width", "8", "--out", str(out)]) == 0
    (kept,) = read_trees(out)
    assert kept.tree.has_observed and {node.role for node in kept.tree.nodes if node.observed} == {"user"}
    assert "letters" in capsys.readouterr().out


class Reads(Echo):
    """An environment that reads a column of its problem."""

    def reset(self, problem: Problem) -> str:
        return super().reset(problem) + problem.columns["more"]


def test_a_prompt_may_have_columns(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """What an environment raised was all that was said of a prompt without the column that it reads."""
    reads = ["--environment.factory", "tests.run.test_environment_evaluation:Reads", "--prompt", "What?"]
    assert main(["sample", str(model), *SMALL[:4], *ENVIRONMENT[2:], *reads]) == 2
    message = capsys.readouterr().err
    assert "KeyError: 'more'; a prompt alone has no columns" in message and "leave out --prompt" in message
    config = treepo.TreePOConfig(
        output_dir=tmp_path / "run",
        tree={"width": 2, "depth": 2, "segment_len": 8},
        environment={"max_observed_tokens": 64},
    )
    rows = [{"prompt": f"{i}?", "more": "x"} for i in range(20)]
    with treepo.TreePOTrainer(str(model), config=config, train_dataset=rows, environment=Reads) as trainer:
        prompt = trainer.processing_class.decode(trainer.grow("3 ", {"more": "letters"}).prompt_ids)
        assert "Say more than 3 letters" in prompt
        with pytest.raises(EnvironmentFailedError, match=r"give them: grow\(prompt"):
            trainer.grow("3")
        with pytest.raises(treepo.SettingError, match="^columns: field 'more' holds a object"):
            trainer.grow("3", {"more": object()})
