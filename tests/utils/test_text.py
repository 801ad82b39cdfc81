"""Messages: one printable line that is not too long."""

import logging
from pathlib import Path

import pytest
from rich.console import Console

from treepo.cli.main import main
from treepo.errors import USER_ERRORS, RecordError, SettingError, WriteError
from treepo.report.console import ConsoleHandler
from treepo.utils.text import MAX_LINE_CHARS, is_unicode, message_line, shorten

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("text", ["x" * 10**6, "\x1b" * 10**5, "\udcff" * 10**5, "\U0010ffff" * 1000, "a\n" * 5000, ""])
def test_a_message_is_one_short_line(text: str) -> None:
    """Escapes count, too."""
    line = message_line(f"treepo: begins {text} ends here")
    assert len(line) <= MAX_LINE_CHARS and line.isprintable()
    assert line.startswith("treepo: begins ") and line.endswith("ends here")


@pytest.mark.parametrize("cls", [*USER_ERRORS, RecordError, WriteError])
def test_an_error_is_one_line_whatever_it_quotes(cls: type[Exception]) -> None:
    """Programs print them themselves. Those of strategies, engines, environments and records had the line breaks of
    what they quote."""
    arguments = {SettingError: ("a.b", "x\n\n  y"), WriteError: (Path("a"), "x\n  y", "z")}.get(cls, ("x\r\n\n  y",))
    text = str(cls(*arguments))
    assert "x y" in text and len(text.splitlines()) == 1


def test_short_texts_stay_as_they_are() -> None:
    assert shorten("x" * MAX_LINE_CHARS) == "x" * MAX_LINE_CHARS
    assert shorten("abcdefghijklmnop", 14) == "abcde ... mnop"


def test_half_surrogate_pairs_are_found_wherever_they_are() -> None:
    for value in ("\udcff", ["a", "\ud800"], ("a", ["b", ("\udfff",)]), {"a": {"\udcff": 1}}, {"a": ["\udcff"]}):
        assert not is_unicode(value)
    for value in ("", "\U0001f600", 5, None, ["a", {"b": ("c", 1.5)}]):
        assert is_unicode(value)


@pytest.mark.parametrize(
    "args",
    [
        ["x" * 10**6],
        ["train", "--" + "x" * 10**5],
        ["train", "--tree." + "x" * 10**5, "1"],
        ["train", "--tree.width", "[" * 10**5],
        ["train", "--tree.width", "9" * 10**5],
        ["train", "--reward.use", "x" * 10**5],
        ["train", "--reward.use", ".".join("x" * 20_000) + ":X"],
        ["train", "--verifier.use", "FunctionVerifier", "--verifier.function", ".".join("x" * 20_000) + ":x"],
        ["train", "--eval.num_problems", "1" + "0" * 18],
        ["train", "--model.path", "\udcff"],
        ["train", "--data.train", '["a", "\udcff"]'],
        ["train", "--prompt.system", "\udcff"],
        ["train", "--lora.rank", "1" + "0" * 12],
        ["train", "--train.prompts_per_step", "1" + "0" * 12],
        ["train", "--engine.max_num_seqs", "1" + "0" * 12],
        ["train", "--eval.num_samples", "1" + "0" * 12],
        ["train", "--verifier_pool.num_workers", "1" + "0" * 12],
        ["train", "--\udcff.\udcff", "1"],
        ["report", "x" * 10**5],
        ["report", "\udcff"],
        ["report", "\x00"],
        ["watch", "/dev/null/" + "x" * 10**5],
        ["train", "y" * 10**5],
        ["train", "\udcff.toml"],
        ["eval", "--recipe", "\x00"],
    ],
    ids=lambda args: " ".join(args)[:30].encode("ascii", "replace").decode(),
)
def test_absurd_arguments_are_one_short_line(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    error = capsys.readouterr().err
    assert error.startswith("treepo: ") and error.count("\n") == 1 and len(error) <= 500


def test_log_messages_are_short_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A warning that names 20,000 fields filled the screen."""
    handler = ConsoleHandler(Console(width=20))
    handler.emit(
        logging.makeLogRecord(
            {"msg": "fields: %s", "args": (list(range(20_000)),), "levelno": 30, "levelname": "WARNING"}
        )
    )
    out = capsys.readouterr().out
    assert out.startswith("warning: fields: [0, 1, ") and out.endswith("19999]\n") and len(out) <= 500
