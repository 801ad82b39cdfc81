"""Where in a text an answer ends, for each verifier: so that it can stop a path."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.data.boxes import last_box
from treepo.data.problem import AnswerFormat, Outcome, Verdict
from treepo.verify.base import FinalAnswer, answer_format
from treepo.verify.math import MathVerifier
from treepo.verify.verifiers import ChoiceVerifier, ExactVerifier, FunctionVerifier, NumericVerifier

BOX, MARK, TAG = FinalAnswer(), FinalAnswer(mark="####"), FinalAnswer(tag="answer")
CHOICE = ChoiceVerifier()


@pytest.mark.parametrize(
    ("answers", "complete", "rest"),
    [
        (BOX, "so \\boxed{\\frac{1}{2}}", ", done"),
        (BOX, "\\boxed{1} or \\boxed{2}", ""),
        (BOX, "\\boxed{1}", " or \\boxed{2"),
        (MARK, "so\n#### 72", "\nbye"),
        (MARK, "#### 1\n#### 72", "\n"),
        (MARK, "#### 1", "\nno, #### 7"),
        (TAG, "<think>1</think><answer>72</answer>", " done"),
        (TAG, "<answer>1</answer><answer> 2\n</answer>", ""),
        (TAG, "<answer>1</answer>", "<answer>2"),
        (CHOICE, "\\boxed{B}", " so Answer: C, ..."),
        (CHOICE, "Answer: B", "."),
        (CHOICE, "the answer is **(B", ")** since"),
        (ChoiceVerifier(tag="answer"), "<answer>B</answer>", ""),
        (ExactVerifier(mark="Answer:"), "Answer: New York", "\n"),
        (NumericVerifier(mark="####"), "#### 1,234", "\n"),
        (NumericVerifier(in_text=True), "72 or \\boxed{3}", ", 4"),
        (MathVerifier(), "\\boxed{x}", ""),
        (FunctionVerifier("a:b", tag="final"), "<final>1</final>", "2"),
    ],
)
def test_the_last_complete_answer_ends_here(answers, complete, rest):
    """Wherever the next segment begins: what is not complete yet is told from what is."""
    assert answers.answer_end(complete + rest, ended=False) == len(complete)
    assert isinstance(answers, AnswerFormat)


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        (BOX, "\\boxed{7"),
        (BOX, "\\boxed{{7}"),
        (BOX, "\\box"),
        (MARK, "#### 7"),
        (MARK, "####"),
        (MARK, "###\n7\n"),
        (MARK, "#### \n7\n"),
        (TAG, "<answer>7"),
        (TAG, "<answer>7</answer"),
        (TAG, "7</answer>"),
        (TAG, "</answer><answer>"),
        (TAG, "\\boxed{7}"),
        (CHOICE, "Answer: B"),
        (CHOICE, "Answer: Because"),
        (CHOICE, "A good question"),
        (NumericVerifier(in_text=True), "It is 72."),
    ],
)
def test_no_answer_has_ended(answers, text):
    assert answers.answer_end(text, ended=False) is None


@pytest.mark.parametrize(
    ("answers", "text"),
    [(MARK, "so\n#### 72"), (ExactVerifier(mark="Answer:"), "Answer: 7"), (CHOICE, "Answer: B"), (BOX, "\\boxed{1}")],
)
def test_eos_completes_an_answer_that_runs_to_the_end(answers, text):
    assert answers.answer_end(text, ended=True) == len(text)


@pytest.mark.parametrize(
    ("answers", "text", "is_open"),
    [
        (BOX, "\\boxed{1} \\boxed{2", True),
        (BOX, "\\boxed{1}", False),
        (MARK, "#### 1\n#### 7", True),
        (MARK, "#### 7\n", False),
        (MARK, "7", False),
        (TAG, "<answer>1</answer><answer>", True),
        (TAG, "<answer>1</answer>", False),
        (TAG, "1", False),
        (CHOICE, "Answer: B", True),
        (CHOICE, "Answer: B.", False),
        (CHOICE, "\\boxed{B", True),
    ],
)
def test_an_answer_that_is_begun_and_not_completed_is_open(answers, text, is_open):
    assert answers.has_open_answer(text) is is_open


@given(
    st.text(alphabet="\\boxed{}#<answer>/ \n7", max_size=80)
    | st.lists(st.sampled_from(["\\boxed{", "}", "{", "7"])).map("".join)
)
def test_an_answer_that_ends_is_the_one_that_is_judged(text):
    """What stands before the end is an answer to the verifier too, and a box ends where `last_box` finds one."""
    assert (BOX.answer_end(text, ended=False) is None) == (last_box(text) is None)
    for answers in (BOX, MARK, TAG):
        for ended in (False, True):
            end = answers.answer_end(text, ended)
            assert end is None or answers.extract(text[:end]) is not None


@pytest.mark.parametrize(
    "verifier", [ExactVerifier(), NumericVerifier(), MathVerifier(), ExactVerifier(mark="A:"), ExactVerifier(tag="a")]
)
def test_the_example_response_is_complete_and_right(verifier):
    response = verifier.example_response("72")
    assert verifier.answer_end(response, ended=True) == len(response)
    assert verifier(response, "72").correct == 1.0


def test_votes_of_a_function_are_by_the_final_answer():
    verifier = FunctionVerifier("tests.verify.judges:judge", mark="####")
    assert verifier("half\n#### 5", "x").extracted_answer == "5"
    assert verifier.example_response("7") == "#### 7"


@dataclass(frozen=True)
class Plain:
    """A verifier without methods that say where an answer ends."""

    def __call__(self, response: str, ground_truth: str) -> Verdict:
        return Verdict(0.0, Outcome.NO_ANSWER, None)

    def example_response(self, ground_truth: str) -> str:
        return ground_truth


def test_without_methods_of_its_own_a_verifiers_answers_are_boxes():
    assert answer_format(Plain()) == FinalAnswer()
    assert answer_format(verifier := ExactVerifier(mark="x")) is verifier


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tag": "<answer>"}, "tag: must be a name without brackets, such as answer, got '<answer>'"),
        ({"tag": "a", "mark": "####"}, "tag: excludes mark, got 'a'"),
    ],
)
def test_impossible_formats_are_named(wrong, message):
    for cls in (FinalAnswer, ExactVerifier, ChoiceVerifier, NumericVerifier, MathVerifier):
        with pytest.raises(ValueError, match=message):
            cls(**wrong)


@pytest.mark.parametrize("text", ["\\boxed{", "####", "<answer>", "</answer>", "Answer: B", "Answer: B\n", "\n"])
def test_long_texts_are_read_in_linear_time(text):
    """A quadratic search would take minutes."""
    many = text * (200_000 // len(text))
    for answers in (BOX, MARK, TAG, CHOICE):
        answers.answer_end(many, ended=False)
        answers.has_open_answer(many)
