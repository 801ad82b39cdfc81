"""A run in an environment that is killed within a turn and resumed is the run that was not, bit for bit."""

import json
import signal
from pathlib import Path

import pytest

from tests.envs.games import Game
from tests.models import save_tiny_model
from tests.runs import assert_same_run, die, finish, judge_length
from treepo.cli.main import main
from treepo.report.run_log import MetricsLog
from treepo.report.trees import read_trees
from treepo.verify.task import VerifiedTask

SETTINGS = {
    "environment.factory": "tests.envs.games:Game",
    "environment.max_turns": 3,
    "environment.max_observed_tokens": 24,
    "reward.environment": 1,
    "reward.correct": 0,
    "verifier.use": "NoVerifier",
    "train.num_steps": 3,
    "train.prompts_per_step": 2,
    "train.save_trees_every": 2,
    "optim.lr": 1e-3,
    "tree.width": 4,
    "tree.depth": 3,
    "tree.segment_len": 8,
    "credit.use": "TEMPO",
    "eval.num_problems": 0,
    "checkpoint.every": 2,
}


def die_within_a_turn() -> None:
    """In the second turn that is answered after two steps."""
    append, step, counts = MetricsLog.append, Game.step, [0, 0]

    def noted(log: MetricsLog, number: int, metrics: dict[str, float]) -> None:
        counts[0] = number
        append(log, number, metrics)

    def killed(game: Game, assistant_text: str) -> object:
        counts[1] += counts[0] >= 2
        return die() if counts[1] == 2 else step(game, assistant_text)

    MetricsLog.append, Game.step = noted, killed  # type: ignore[method-assign]


def test_a_run_killed_within_a_turn_is_the_run_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments are not kept: the step is grown anew, with the same turns. In some trees no turn ends: once, a step
    of such trees was an error."""
    monkeypatch.setattr(VerifiedTask, "verify", judge_length)
    options = ["--model.path", str(save_tiny_model(tmp_path / "model", chat=True))]
    for name, letters in (("train", "abcdef"), ("eval", "xy")):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"prompt": f"{letter}?", "answer": "1"}) + "\n" for letter in letters))
        options += [f"--data.{name}", str(path)]
    options += [text for name, value in SETTINGS.items() for text in (f"--{name}", str(value))]
    whole, out, log = tmp_path / "whole", tmp_path / "run", tmp_path / "log"
    assert main(["train", *options, "--out", str(whole)]) == 0
    assert any(kept.tree.has_observed for path in (whole / "trees").iterdir() for kept in read_trees(path))
    args = ["train", *options, "--out", str(out)]
    assert finish(args, log, die_within_a_turn) == -signal.SIGKILL, log.with_suffix(".err").read_text()
    assert finish(["train", "--resume", str(out)], log) == 0, log.with_suffix(".err").read_text()
    # How many steps the engine takes depends on when environments answer; what it samples does not.
    assert_same_run(whole, out, ignored="engine/")
