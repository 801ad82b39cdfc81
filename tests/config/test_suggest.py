"""What a wrong name is answered with."""

import pytest

from treepo.cli.evaluate import make_parser as eval_parser
from treepo.cli.main import main
from treepo.cli.train import make_parser as train_parser
from treepo.config.load import resolve, setting_names
from treepo.config.schema import Config
from treepo.config.suggest import ELSEWHERE, suggest
from treepo.errors import SettingError

pytestmark = pytest.mark.quick


def test_every_name_from_elsewhere_stands_for_one_of_ours():
    """A suggestion that does not exist would mislead."""
    options = {
        text[2:] for parser in (train_parser(), eval_parser()) for a in parser._actions for text in a.option_strings
    }
    assert set(ELSEWHERE.values()) <= set(setting_names(Config)) | options


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--lr", "optim.lr"),
        ("--learning_rate", "optim.lr"),
        ("--learning-rate", "optim.lr"),
        ("--model", "model.path"),
        ("--model_name_or_path", "model.path"),
        ("--epochs", "train.num_epochs"),
        ("--num_train_epochs", "train.num_epochs"),
        ("--batch_size", "train.prompts_per_step"),
        ("--per_device_train_batch_size", "train.prompts_per_step"),
        ("--num_generations", "tree.width"),
        ("--max_completion_length", "tree.max_response_len"),
        ("--output_dir", "out"),
        ("--resume_from_checkpoint", "resume"),
        ("--learnign_rate", "optim.lr"),
        ("--wdith", "tree.width"),
        ("--num-step", "train.num_steps"),
        ("--report_to", "tracking.trackers"),
    ],
)
def test_an_option_that_there_is_not_is_answered_with_ours(typed, meant, capsys):
    """It was `unrecognized arguments` alone, and the value was taken for the recipe."""
    for args in ([typed, "3"], [f"{typed}=3"]):
        assert main(["train", *args]) == 2
        error = capsys.readouterr().err
        assert error.startswith("treepo: command line: unrecognized arguments: --") and error.count("\n") == 1
        assert error.endswith(f"; did you mean --{meant}?\n"), error


def test_options_of_the_command_are_suggested_too(capsys):
    for typed, meant in (("--max_tokens", "max-tokens"), ("--sample", "samples"), ("--temprature", "temperature")):
        assert main(["eval", typed, "3"]) == 2
        assert f"did you mean --{meant}" in capsys.readouterr().err
    assert main(["report", "--trust-code", "x"]) == 2
    assert capsys.readouterr().err.endswith("; did you mean --trust-run-code?\n")


@pytest.mark.parametrize(
    ("settings", "meant"),
    [
        ({"train": {"learning_rate": 1}}, "optim.lr"),
        ({"tree": {"widht": 4}}, "tree.width"),
        ({"trainer": {"total_epochs": 4}}, "train.num_epochs"),
        ({"loss": {"use": "CISPO", "max_wieght": 4.0}}, "loss.max_weight"),
        ({"actor": {"lr": 4}}, "optim.lr"),
        ({"trees": {"width": 4}}, "tree.width"),
    ],
)
def test_a_setting_in_a_recipe_that_there_is_not(settings, meant):
    with pytest.raises(SettingError, match=rf"unknown se(tting|ction); .*; did you mean --{meant}\?$"):
        resolve(settings)


def test_nothing_is_suggested_for_what_is_like_nothing():
    assert suggest("--zzzz", setting_names(Config)) == ""
    assert (
        suggest("--every", ["eval.every", "checkpoint.every"]) == "; did you mean --eval.every or --checkpoint.every?"
    )
    assert suggest("--eval.evry", ["eval.every", "checkpoint.every"]) == "; did you mean --eval.every?"
