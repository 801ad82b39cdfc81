"""Text, letters and functions of the user's own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.verify.judges import said
from treepo.data.problem import Outcome, Verdict
from treepo.verify.verifiers import ChoiceVerifier, ExactVerifier, FunctionVerifier


@pytest.mark.parametrize(
    ("verifier", "response", "answer", "right"),
    [
        (ExactVerifier(), "\\boxed{New\n York }", "New York", True),
        (ExactVerifier(), "\\boxed{new york}", "New York", False),
        (ExactVerifier(ignore_case=True), "\\boxed{NEW york}", "New York", True),
        (ExactVerifier(), "\\boxed{72.0}", "72", False),
        (ExactVerifier(extract_from=("mark",)), "#### 1\nno\n#### 72 \nbye", "72", True),
        (ExactVerifier(extract_from=("mark",), mark="Answer:"), "Answer: 72, I think", "72", False),
        *[
            (ChoiceVerifier(), f"\\boxed{{{box}}}", "B", True)
            for box in ("B", "(B)", "\\text{B}", "\\textbf{(B)}", "b", "B.")
        ],
        *[
            (ChoiceVerifier(), f"\\boxed{{{box}}}", "(B)", True)
            for box in ("B) 12", "\\text{(B) } 3", "\\mathrm{B}: x", "$B$")
        ],
        (ChoiceVerifier(), "\\boxed{A}", "B", False),
        (ChoiceVerifier(), "Answer: A. No. Answer: B", "B", True),
        (ChoiceVerifier(), "The answer is **(B)**.", "B", True),
        (ChoiceVerifier(), "Answer: B, but \\boxed{A}", "B", False),
    ],
)
def test_what_is_right(verifier, response, answer, right):
    verdict = verifier(response, answer)
    assert (verdict.correct, verdict.outcome) == (float(right), Outcome.GRADED)


@pytest.mark.parametrize(
    ("verifier", "response", "outcome"),
    [
        (ExactVerifier(), "72", Outcome.NO_ANSWER),
        (ExactVerifier(extract_from=("mark",)), "\\boxed{72}", Outcome.NO_ANSWER),
        (ExactVerifier(extract_from=("mark",)), "#### \n72", Outcome.NO_ANSWER),
        (ChoiceVerifier(), "A good question", Outcome.NO_ANSWER),
        (ChoiceVerifier(), "\\boxed{All}", Outcome.UNPARSED),
        (ChoiceVerifier(letters="AB"), "\\boxed{C}", Outcome.UNPARSED),
        (ChoiceVerifier(letters="AB"), "Answer: C", Outcome.NO_ANSWER),
        (ChoiceVerifier(), "The answer is Because", Outcome.NO_ANSWER),
    ],
)
def test_why_it_is_not_compared(verifier, response, outcome):
    verdict = verifier(response, "72" if "Choice" not in type(verifier).__name__ else "A")
    assert (verdict.correct, verdict.outcome) == (0.0, outcome)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60), st.text(max_size=20))
def test_any_text_is_judged(response, answer):
    for verifier in (ExactVerifier(), ExactVerifier(extract_from=("mark",), mark="a"), ChoiceVerifier()):
        for text in (response, verifier.example_response(response), f"Answer: {response}"):
            verdict = verifier(text, answer)
            assert verdict.correct in (0, 1) and len(verdict.extracted_answer or "") <= 200


@pytest.mark.parametrize(
    "text", ["7", "1,", "1,234", "7/", "-", "e7", "answer ", "answer is ", "{", "\\text", "\\frac", "1 ", "x^2"]
)
def test_very_long_responses_are_no_trouble(text):
    """A quadratic search would take minutes."""
    many = text * (200_000 // len(text))
    for verifier in (ExactVerifier(extract_from=("mark",)), ChoiceVerifier()):
        for response in (many, f"\\boxed{{{many}}}"):
            assert verifier(response, "B").correct == 0.0


def test_a_function_is_called_with_what_it_is_given():
    verifier = FunctionVerifier("tests.verify.judges:measure", "<{answer}|{}|{{answer}}>")
    assert verifier("{answer}%s", "") == said((10, 0, 0))
    assert verifier.example_response("{x}") == "<{x}|{}|{{x}}>"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FunctionVerifier("judges.judge"), "function: must be written module:function, got 'judges.judge'"),
        (lambda: FunctionVerifier("a:b", "\\boxed{}"), r"template: must hold \{answer\}, got"),
        (lambda: ChoiceVerifier("abc"), "letters: must be different capital letters A-Z, got 'abc'"),
        (lambda: ChoiceVerifier("ABA"), "letters: must be different capital letters A-Z, got 'ABA'"),
        (lambda: Verdict(1.5, Outcome.GRADED, None), "correct must be between 0 and 1, got 1.5"),
        (lambda: Verdict(0.5, Outcome.UNPARSED, None), "correct must be 0 where the outcome is 'unparsed', got 0.5"),
    ],
)
def test_impossible_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
