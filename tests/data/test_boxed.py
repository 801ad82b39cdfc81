r"""Answers in \boxed{...}: nested, escaped, unclosed, many, and very many."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.grow.reference import has_closed_box, is_escaped
from treepo.data.boxes import has_open_box, last_box


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{}", ""),
        (r"\boxed{1} or \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\}}", r"\}"),
        (r"\boxed{a\\}", r"a\\"),  # an escaped backslash does not escape the brace
        (r"\boxed{1}}}", "1"),
        (r"}}\boxed{1}", "1"),
        (r"{{{\boxed{1}", "1"),
        (r"\boxed{1} and \boxed{2", "1"),  # the last complete one
        (r"\boxed{1 \boxed{2}", "2"),
        (r"\boxed{1 \boxed{2} 3}", "2"),
        (r"\boxed{x}\boxed{\boxed{y}}", "y"),
        ("\\boxed{two\nlines}", "two\nlines"),
        ("\\boxed{\\\n}", "\\\n"),
        (r"\boxed{√2}", "√2"),
        ("", None),
        ("42", None),
        (r"\boxed", None),
        (r"\boxed{", None),
        (r"\boxed{42", None),
        (r"\boxed{\frac{1}{2}", None),
        (r"\boxed{1\}", None),
        (r"\boxed{1\\\}", None),
        (r"boxed{1}", None),
        (r"\fbox{1}", None),
        (r"\\boxed{1}", None),  # a line break and the word "boxed"
        (r"{\boxed}{1}", None),
        ("\\", None),
    ],
)
def test_last_box(text: str, expected: str | None) -> None:
    """The last complete box, by where it opens."""
    assert last_box(text) == expected


pieces = st.lists(st.sampled_from(["\\boxed{", "{", "}", "}", "\\", "\\{", "\\}", "x", "\n", "boxed{"]), max_size=14)


@settings(max_examples=600, deadline=None)
@given(pieces.map("".join))
def test_a_box_is_found_if_and_only_if_one_closes(text: str) -> None:
    """Against a quadratic search that counts braces after every opening."""
    assert (last_box(text) is not None) == has_closed_box(text)


@settings(max_examples=600, deadline=None)
@given(pieces.map("".join))
def test_the_content_is_what_the_last_closing_box_holds(text: str) -> None:
    """Against the same search from the last opening backwards."""
    opening, expected = "\\boxed{", None
    for start in range(len(text)):
        if text.startswith(opening, start) and not is_escaped(text, start):
            rest = text[start + len(opening) :]
            ends = [
                i for i in range(len(rest)) if rest[i] == "}" and balance(rest[:i]) == 0 and not is_escaped(rest, i)
            ]
            if ends:
                expected = rest[: ends[0]]
    assert last_box(text) == expected


def balance(text: str) -> int:
    """Opening less closing braces, without escaped ones."""
    free = [text[i] for i in range(len(text)) if text[i] in "{}" and not is_escaped(text, i)]
    return free.count("{") - free.count("}")


@pytest.mark.parametrize("text", ["\\boxed{", "{", "\\boxed{}", "\\", "\\boxed{{", "x\\boxed{1"])
def test_a_megabyte_takes_linear_time(text: str) -> None:
    """Whatever is repeated, also when it is closed at the very end."""
    many = text * (1_000_000 // len(text))
    start = time.perf_counter()
    last_box(many)
    last_box(many + "}" * 1000)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("text", "is_open"),
    [("", False), ("\\boxed{1}", False), ("\\boxed{1", True), ("\\boxed{1} \\boxed{2", True), ("\\boxed{ {1} ", True)],
)
def test_an_open_box_is_one_that_is_never_closed(text, is_open):
    assert has_open_box(text) is is_open
