"""Hostile answers take a bounded number of steps, and longer ones no more than in proportion."""

import sys
from collections.abc import Callable
from functools import partial

import pytest

from tests.verify.hostile import hostile_answers
from treepo.data.problem import Outcome
from treepo.verify.expressions.reader import read
from treepo.verify.expressions.text import MAX_ANSWER_LEN, UnreadableError
from treepo.verify.math import MathVerifier

VERIFIER = MathVerifier()
MAX_CALLS = 500_000
"""Calls of functions for one answer: a fraction of a second."""


def calls(function: Callable[[], object]) -> int:
    """How many functions are called, those in C included."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def test_no_hostile_answer_takes_many_steps_or_is_right():
    for kind, response, ground_truth in hostile_answers(300, seed=5):
        answer = VERIFIER.extract(response) or ""
        assert calls(partial(VERIFIER.are_equal, answer, ground_truth)) < MAX_CALLS, kind
        assert VERIFIER(response, ground_truth).correct == 0, (response, ground_truth)


HOSTILE = [
    "9^{9^{9^9}}",
    "9^{9^{9^{9^{9}}}}-9^{9^{9^{9^9}}}",
    "(((9!)!)!)!",
    "10^{10^{10}}!",
    "\\binom{10^{12}}{10^{11}}",
    "2^{2^{100}}+1",
    "\\sin(10^{10^{10}})",
    "\\lfloor \\pi^{10^{9}} \\rfloor",
    "1" + "0" * 900,
    "1e999999999",
    "\\sum_{n=1}^{10^{12}} n^n",
    "+".join(f"x_{{{n}}}!" for n in range(90)),
    "+".join(f"\\sqrt{{{n}}}" for n in range(2, 100)),
    "\\gcd(" + ",".join(["10^{300}"] * 90) + ")",
    ",".join(f"\\sqrt{{{n}}}" for n in range(2, 100)),
    "(" * 400 + ")" * 400,
    "-" * 900 + "1",
    "2^" * 400 + "2",
    "2^" + "-" * 900 + "2",
    "\\sqrt" * 190 + "2",
    "\\frac" * 190 + "2",
    "\\sin" * 200 + "x",
    "|" * 900,
    "{" * 400 + "}" * 400,
    "\\{" * 200 + "\\}" * 200,
    "\\pm" * 300 + "1",
    "=" * 900,
    "x=" * 400 + "1",
    "1<" * 400 + "x",
    ",".join(f"x>{n}" for n in range(200)),
    "\\cup".join(f"({n},{n + 1})" for n in range(70)),
    "\\setminus".join(f"({n},{n + 1})" for n in range(60)),
    "\\lfloor x \\rfloor + " * 50 + "1",
    "\\text{" * 150 + "}" * 150,
    "\\begin{pmatrix}" * 60 + "\\end{pmatrix}" * 60,
    "1,234" * 190,
    "1 234 " * 150,
    "5 m " * 200,
    "1 hour " * 140,
    "a_" * 450 + "b",
    "f(" * 300 + ")" * 300,
    "$" * 900,
    "*" * 900,
    "`" * 999,
    "'" * 900,
    "x^{" * 200 + "2" + "}" * 200,
    "(x+1)^{12}(y+1)^{12}(z+1)^{12}(w+1)^{12}",
    "((((x+y+z+w)^{12})^{12})^{12})^{12}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:24])
def test_what_would_take_forever_is_refused_or_bounded(text):
    assert calls(lambda: VERIFIER.are_equal(text, "x+\\sqrt{2}")) < MAX_CALLS
    assert calls(lambda: VERIFIER.are_equal(text, f"{text}+1")) < MAX_CALLS
    assert calls(lambda: VERIFIER(f"\\boxed{{{text}}}", "2")) < MAX_CALLS
    assert VERIFIER.are_equal(text, text)


@pytest.mark.parametrize(
    "piece", ["1+", "x", "(1)", ", 7", "\\frac12", "[0,1]", "-", "|x|", " and 3", "\\text{a} ", "1,2"]
)
def test_steps_grow_in_proportion_to_the_length(piece):
    """From a quarter of the longest answer to the whole."""

    def refused(text: str) -> None:
        try:
            read(text)
        except UnreadableError:
            return

    counts = []
    for length in (MAX_ANSWER_LEN // 4, MAX_ANSWER_LEN):
        text = (piece * length)[: length // len(piece) * len(piece)] + "1"
        counts.append(calls(lambda text=text: refused(text[:MAX_ANSWER_LEN])))
    assert counts[1] <= 6 * counts[0] + 2000


def test_longer_answers_are_not_read():
    text = "1+" * MAX_ANSWER_LEN + "1"
    assert VERIFIER(f"\\boxed{{{text}}}", text).outcome is Outcome.GRADED
    assert VERIFIER(f"\\boxed{{{text}}}", "7").outcome is Outcome.UNPARSED
    assert calls(lambda: VERIFIER(f"\\boxed{{{text}}}", "7")) < 3000
