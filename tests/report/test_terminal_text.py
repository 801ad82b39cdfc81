"""Lines and bars: what comes from outside is shown, and never obeyed."""

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from treepo.report.terminal import Terminal
from treepo.utils.text import sanitize

NASTY = "\x1b[31mred\x1b]0;title\x07\r\b\x9b2J\x7f\u202egnp\u2028\t\ud800"
ESCAPED = "\\x1b[31mred\\x1b]0;title\\x07\\r\\x08\\x9b2J\\x7f\\u202egnp\\u2028\\t\\ud800"


def shown(line: str) -> str:
    file = io.StringIO()
    Terminal(Console(file=file, force_terminal=True, width=40)).say(line)
    return file.getvalue()


def test_a_line_cannot_steer_the_terminal():
    """Messages quote exceptions, chat templates, file names and ids, which may hold any character."""
    assert shown(f"verifier: {NASTY}!") == f"verifier: {ESCAPED}!\n"


def test_a_line_is_neither_markup_nor_wrapped():
    """Not a name between colons either, which was shown as a picture."""
    line = "[bold]x[/bold] [link=file:///]:smile: 'a' 12 " * 5
    assert shown(line) == line + "\n"


def test_line_breaks_stay():
    assert shown("one\ntwo\x1b\n") == "one\ntwo\\x1b\n\n"


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=())))
def test_printable_leaves_nothing_to_obey_and_what_is_printable_alone(text):
    """And says which character stood there."""
    assert sanitize(text).isprintable()
    assert sanitize(text) == "".join(c if c.isprintable() else ascii(c).strip("'") for c in text)
    assert sanitize(sanitize(text)) == sanitize(text)


@pytest.mark.parametrize("name", ["[red]a[/red]", "[/]", "{task.total}", "a\x1b[2Jb\nc"])
def test_the_name_of_a_bar_is_shown_as_it_is(name):
    """It holds the name of a model: markup in it was obeyed, and "[/]" was a traceback."""
    file = io.StringIO()
    with Terminal(Console(file=file, force_terminal=True, width=200)).progress(name) as report:
        report(1, 2, 0.5)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
    assert f"{sanitize(name)} (0.500)" in text
    assert "\x1b[2Jb" not in file.getvalue()
