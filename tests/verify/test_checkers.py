"""Text, numbers, letters and functions of one's own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.verify.judges import said
from treepo.data.problem import Outcome, Verdict
from treepo.verify.verifiers import ChoiceChecker, ExactChecker, FunctionChecker, NumericChecker


@pytest.mark.parametrize(
    ("checker", "response", "answer", "right"),
    [
        (ExactChecker(), "\\boxed{New\n York }", "New York", True),
        (ExactChecker(), "\\boxed{new york}", "New York", False),
        (ExactChecker(ignore_case=True), "\\boxed{NEW york}", "New York", True),
        (ExactChecker(), "\\boxed{72.0}", "72", False),
        (ExactChecker(mark="####"), "#### 1\nno\n#### 72 \nbye", "72", True),
        (ExactChecker(mark="Answer:"), "Answer: 72, I think", "72", False),
        (NumericChecker(), "\\boxed{72}", "72.0", True),
        (NumericChecker(), "\\boxed{\\$1,234.50}", "1234.5", True),
        (NumericChecker(), "\\boxed{x = 72 \\text{ m}^2}", "72", True),
        (NumericChecker(), "\\boxed{72 cm^{3}}", "72", True),
        (NumericChecker(), "\\boxed{75\\%}", "75%", True),
        (NumericChecker(), "\\boxed{\\frac{3}{4}}", "0.75", True),
        (NumericChecker(), "\\boxed{2\\frac{3}{4}}", "2.75", True),
        (NumericChecker(), "\\boxed{\\frac{1}{4}}", "4", False),
        (NumericChecker(), "\\boxed{1/4}", "4", False),
        (NumericChecker(), "\\boxed{10-5}", "5", True),
        (NumericChecker(), "\\boxed{= -5}", "5", False),
        (NumericChecker(), "\\boxed{\u22125}", "-5", True),
        (NumericChecker(), "\\boxed{2.5 \\times 10^{3}}", "2500", True),
        (NumericChecker(), "\\boxed{10^{3}}", "1000", True),
        (NumericChecker(), "\\boxed{\\frac{3}{4} \\text{ of } 8}", "8", True),
        (NumericChecker(), "\\boxed{1, 2}", "12", False),
        (NumericChecker(), "\\boxed{none}", "none", True),
        (NumericChecker(), "\\boxed{0.1}", "0.10000000000000000001", False),
        (NumericChecker(rel_tol=0.01), "\\boxed{101}", "100", True),
        (NumericChecker(rel_tol=0.01), "\\boxed{-101}", "-102", True),
        (NumericChecker(rel_tol=0.01), "\\boxed{102}", "100", False),
        (NumericChecker(rel_tol=0.01), "\\boxed{0.0001}", "0", False),
        (NumericChecker(in_text=True), "It is 3, no, 72.", "72", True),
        (NumericChecker(in_text=True), "\\boxed{3}, not 72", "72", False),
        *[
            (ChoiceChecker(), f"\\boxed{{{box}}}", "B", True)
            for box in ("B", "(B)", "\\text{B}", "\\textbf{(B)}", "b", "B.")
        ],
        *[
            (ChoiceChecker(), f"\\boxed{{{box}}}", "(B)", True)
            for box in ("B) 12", "\\text{(B) } 3", "\\mathrm{B}: x", "$B$")
        ],
        (ChoiceChecker(), "\\boxed{A}", "B", False),
        (ChoiceChecker(), "Answer: A. No. Answer: B", "B", True),
        (ChoiceChecker(), "The answer is **(B)**.", "B", True),
        (ChoiceChecker(), "Answer: B, but \\boxed{A}", "B", False),
    ],
)
def test_what_is_right(checker, response, answer, right):
    verdict = checker(response, answer)
    assert (verdict.correct, verdict.outcome) == (float(right), Outcome.CHECKED)


@pytest.mark.parametrize(
    ("checker", "response", "outcome"),
    [
        (ExactChecker(), "72", Outcome.NO_ANSWER),
        (ExactChecker(mark="####"), "\\boxed{72}", Outcome.NO_ANSWER),
        (ExactChecker(mark="####"), "#### \n72", Outcome.NO_ANSWER),
        (NumericChecker(), "72", Outcome.NO_ANSWER),
        (NumericChecker(), "\\boxed{many}", Outcome.UNPARSED),
        (NumericChecker(), "\\boxed{6^{72}}", Outcome.UNPARSED),
        (NumericChecker(), "\\boxed{6^72}", Outcome.UNPARSED),
        (NumericChecker(), "\\boxed{1/0}", Outcome.UNPARSED),
        (NumericChecker(), "\\boxed{1e999999999}", Outcome.UNPARSED),
        (NumericChecker(), "\\boxed{" + "7" * 1_000_000 + "}", Outcome.UNPARSED),
        (NumericChecker(), "\\boxed{\uff17\u0662}", Outcome.UNPARSED),
        (ChoiceChecker(), "A good question", Outcome.NO_ANSWER),
        (ChoiceChecker(), "\\boxed{All}", Outcome.UNPARSED),
        (ChoiceChecker(letters="AB"), "\\boxed{C}", Outcome.UNPARSED),
        (ChoiceChecker(letters="AB"), "Answer: C", Outcome.NO_ANSWER),
        (ChoiceChecker(), "The answer is Because", Outcome.NO_ANSWER),
    ],
)
def test_why_it_is_not_compared(checker, response, outcome):
    verdict = checker(response, "72" if "Choice" not in type(checker).__name__ else "A")
    assert (verdict.correct, verdict.outcome) == (0.0, outcome)


@settings(max_examples=50, deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(0, 6))
def test_a_number_is_read_back_with_and_without_commas(number, places):
    checker = NumericChecker()
    for text in (f"{number:,}", str(number), f"{number:,}.{'0' * places}", f"{number}e0", f"about {number} units"):
        assert checker(f"\\boxed{{{text}}}", str(number)) == Verdict(1.0, Outcome.CHECKED, str(number))
        assert checker(f"\\boxed{{{text}}}", str(number + 1)).correct == 0.0


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60), st.text(max_size=20))
def test_any_text_is_judged(response, answer):
    for checker in (ExactChecker(), ExactChecker(mark="a"), NumericChecker(in_text=True), ChoiceChecker()):
        for text in (response, checker.written(response), f"Answer: {response}"):
            verdict = checker(text, answer)
            assert verdict.correct in (0, 1) and len(verdict.given or "") <= 200


@pytest.mark.parametrize(
    "text", ["7", "1,", "1,234", "7/", "-", "e7", "answer ", "answer is ", "{", "\\text", "\\frac", "1 ", "x^2"]
)
def test_very_long_responses_are_no_trouble(text):
    """A quadratic search would take minutes."""
    many = text * (200_000 // len(text))
    for checker in (ExactChecker(mark="####"), NumericChecker(in_text=True), ChoiceChecker()):
        for response in (many, f"\\boxed{{{many}}}"):
            assert checker(response, "B").correct == 0.0


def test_a_function_is_called_with_what_it_is_given():
    checker = FunctionChecker("tests.verify.judges:measure", "<{answer}|{}|{{answer}}>")
    assert checker("{answer}%s", "") == said((10, 0, 0))
    assert checker.written("{x}") == "<{x}|{}|{{x}}>"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FunctionChecker("judges.judge"), "function must be written module:function, got 'judges.judge'"),
        (lambda: FunctionChecker("a:b", "\\boxed{}"), r"template must hold \{answer\}, got"),
        (lambda: ChoiceChecker("abc"), "letters must be different capital letters A-Z, got 'abc'"),
        (lambda: ChoiceChecker("ABA"), "letters must be different capital letters A-Z, got 'ABA'"),
        (lambda: NumericChecker(-1.0), "rel_tol must be a number of at least 0, got -1.0"),
        (lambda: NumericChecker(float("nan")), "rel_tol must be a number of at least 0, got nan"),
        (lambda: Verdict(1.5, Outcome.CHECKED, None), "correct must be between 0 and 1, got 1.5"),
        (lambda: Verdict(0.5, Outcome.UNPARSED, None), "correct must be 0 where the outcome is 'unparsed', got 0.5"),
    ],
)
def test_impossible_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
