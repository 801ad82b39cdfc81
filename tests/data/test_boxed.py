r"""Answers in \boxed{...}: nested, escaped, unclosed, without braces, many, and very many."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.grow.reference import has_closed_box, is_escaped
from treepo.data.boxes import count_boxes, find_last_box, has_open_box, last_box


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
        (r"\boxed{1} and \boxed{2", None),  # what is begun last counts
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
        (r"\fbox{1}", "1"),
        (r"\framebox{1}", "1"),
        (r"\boxed {42}", "42"),
        ("\\boxed\n {42}", "42"),
        (r"\boxed 42", "42"),
        (r"\boxed5", "5"),
        (r"$\boxed 5$.", "5"),
        (r"\(\boxed 5\) it is", "5"),
        (r"\boxed 42. So", "42"),
        (r"\boxed -3, as", "-3"),
        (r"\boxed - 3", "- 3"),
        (r"\boxed\frac12 it is", r"\frac12"),
        (r"\boxed \frac{1}{ 2} it is", r"\frac{1}{ 2}"),
        (r"\boxed 10\,000 km", r"10\,000"),
        (r"(\boxed 5)", "5"),
        (r"{\boxed 5}", "5"),
        (r"\boxed (1, 2) it is", "(1, 2)"),
        (r"\boxed\{1, 2\}", r"\{1, 2\}"),
        (r"\boxed (1, 2", None),
        (r"\boxed{1} and \fbox{2", None),
        (r"\boxed{1}, in \boxed notation as \boxed.", "1"),
        (r"\boxed{1} \boxed", "1"),
        (r"\boxedtext{1}", None),
        (r"\\boxed{1}", None),  # a line break and the word "boxed"
        (r"{\boxed}{1}", None),
        ("\\", None),
    ],
)
def test_last_box(text: str, expected: str | None) -> None:
    """The box that opens last, if it is closed."""
    assert last_box(text) == expected


pieces = st.lists(st.sampled_from(["\\boxed{", "{", "}", "}", "\\", "\\{", "\\}", "x", "\n", "boxed{"]), max_size=14)


@settings(max_examples=600, deadline=None)
@given(pieces.map("".join))
def test_a_box_is_found_if_and_only_if_the_last_one_closes(text: str) -> None:
    """Against a search that counts braces after the last opening."""
    assert (last_box(text) is not None) == has_closed_box(text)


@settings(max_examples=600, deadline=None)
@given(pieces.map("".join))
def test_the_content_is_what_the_last_opening_holds(text: str) -> None:
    """Its braces are balanced, and the box ends just behind it."""
    found = find_last_box(text)
    if found is not None:
        content = text[found.start : found.end]
        assert text[: found.start].endswith("\\boxed{") and text[found.end : found.close] == "}"
        assert "\\boxed{" not in content.replace("\\\\", "")
        assert balance(content) == 0


def balance(text: str) -> int:
    """Opening less closing braces, without escaped ones."""
    free = [text[i] for i in range(len(text)) if text[i] in "{}" and not is_escaped(text, i)]
    return free.count("{") - free.count("}")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "\\boxed{",
            "{",
            "\\boxed{}",
            "\\",
            "\\boxed{{",
            "x\\boxed{1",
            "\\boxed ",
            "\\boxed 1",
            "\\boxed (1",
            "\\fbox",
        ),
    ],
)
def test_a_megabyte_takes_linear_time(text: str) -> None:
    """Whatever is repeated, also when it is closed at the very end."""
    many = text * (1_000_000 // len(text))
    start = time.perf_counter()
    last_box(many)
    last_box(many + "}" * 1000)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("text", "is_open"),
    [
        ("", False),
        ("\\boxed{1}", False),
        ("\\boxed{1", True),
        ("\\boxed{1} \\boxed{2", True),
        ("\\boxed{ {1} ", True),
        ("\\boxed 4", True),
        ("\\boxed 4 ", False),
        ("$\\boxed 4$", False),
        ("\\boxed (1, 2", True),
        ("\\boxed{1} \\boxed", True),
        ("\\boxed notation ", False),
    ],
)
def test_an_open_box_is_one_that_is_never_closed(text, is_open):
    assert has_open_box(text) is is_open


def test_a_box_without_braces_is_complete_when_it_can_no_longer_grow():
    """During growth 4 may become 42."""
    assert find_last_box("\\boxed 4", ended=False) is None
    assert find_last_box("\\boxed 4", ended=True) == (7, 8, 8)
    assert find_last_box("\\boxed 4.", ended=False) is None
    assert find_last_box("\\boxed 4. ", ended=False) == (7, 8, 9)


def test_boxes_are_counted_where_they_open():
    assert count_boxes("\\boxed{1} \\fbox{2} \\boxed 3 \\boxed notation \\\\boxed{4} \\boxed{5") == 4
