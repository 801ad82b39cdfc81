"""Where in a text an answer ends, for each verifier: so that it can stop a path."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.data.boxes import last_box
from treepo.data.problem import AnswerFormat, Outcome, Verdict
from treepo.verify.base import FinalAnswer, answer_format, is_well_formed
from treepo.verify.math import MathVerifier
from treepo.verify.numeric import NumericVerifier
from treepo.verify.verifiers import ChoiceVerifier, ExactVerifier, FunctionVerifier

PHRASE, NUMBER = FinalAnswer(extract_from=("phrase",)), FinalAnswer(extract_from=("last_number",))
PREFILLED = FinalAnswer(think_prefilled=True)
BOX, MARK, TAG = FinalAnswer(), FinalAnswer(extract_from=("mark",)), FinalAnswer(extract_from=("tag",))
FALLBACK = FinalAnswer(extract_from=("box", "phrase", "last_number"))
CHOICE = ChoiceVerifier()


@pytest.mark.parametrize(
    ("answers", "complete", "rest"),
    [
        (BOX, "so \\boxed{\\frac{1}{2}}", ", done"),
        (BOX, "\\boxed{1} or \\boxed{2}", ""),
        (BOX, "<think>\\boxed{1}</think> \\boxed{2}", " and"),
        (BOX, "\\boxed 42", " and"),
        (BOX, "\\boxed{42}", " <think>\\boxed{43}"),
        (PREFILLED, "\\boxed{1}</think> \\boxed{2}", " and"),
        (MARK, "so\n#### 72", "\nbye"),
        (PHRASE, "The answer is 42", ". So"),
        (PHRASE, "**Answer:** 42", "\n"),
        (PHRASE, "The answer is:\n\\[\n42\n\\]", " so"),
        (PHRASE, "The answer is 3.5 km", ". I"),
        (MARK, "#### 1\n#### 72", "\n"),
        (TAG, "<think>1</think><answer>72</answer>", " done"),
        (TAG, "<answer>1</answer><answer> 2\n</answer>", ""),
        (CHOICE, "\\boxed{B}", " so Answer: C, ..."),
        (CHOICE, "Answer: B", "."),
        (CHOICE, "the answer is **(B", ")** since"),
        (ChoiceVerifier(extract_from=("tag",)), "<answer>B</answer>", ""),
        (ExactVerifier(extract_from=("mark",), mark="Answer:"), "Answer: New York", "\n"),
        (NumericVerifier(extract_from=("mark",)), "#### 1,234", "\n"),
        (NumericVerifier(extract_from=("box", "last_number")), "72 or \\boxed{3}", ", 4"),
        (MathVerifier(), "\\boxed{x}", ""),
        (FunctionVerifier("a:b", extract_from=("tag",), tag="final"), "<final>1</final>", "2"),
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
        (BOX, "\\boxed{1} or \\boxed{2"),
        (BOX, "\\boxed 4"),
        (BOX, "<think>\\boxed{7}"),
        (BOX, "<think>\\boxed{7}</think> so"),
        (BOX, "\\boxed{7}</think> so"),
        (PREFILLED, "so \\boxed{7}"),
        (MARK, "#### 1\nno, #### 7"),
        (MARK, "<think>\n#### 1\n</think>\n"),
        (TAG, "<answer>1</answer><answer>2"),
        (TAG, "<think><answer>1</answer>"),
        (PHRASE, "The answer is 42"),
        (PHRASE, "The answer is 42."),
        (PHRASE, "The answer is:\n\\[\n42"),
        (PHRASE, "I wonder what the answer is. "),
        (PHRASE, "<think>The answer is 42.</think> so"),
        (CHOICE, "<think>Answer: B. "),
        (NUMBER, "It is 72.\n"),
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
        (NumericVerifier(extract_from=("box", "last_number")), "It is 72."),
    ],
)
def test_no_answer_has_ended(answers, text):
    assert answers.answer_end(text, ended=False) is None


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        (MARK, "so\n#### 72"),
        (NUMBER, "so 72"),
        (PHRASE, "The answer is 7"),
        (ExactVerifier(extract_from=("mark",), mark="Answer:"), "Answer: 7"),
        (CHOICE, "Answer: B"),
        (BOX, "\\boxed{1}"),
    ],
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
        (BOX, "<think>\\boxed{2", False),
        (PREFILLED, "\\boxed{2", False),
        (PHRASE, "The answer is", True),
        (PHRASE, "The answer is 42", True),
        (PHRASE, "The answer is 42.\n", False),
        (PHRASE, "so 42", False),
        (NUMBER, "42", False),
        (FALLBACK, "The answer is 42. ", False),
        (FALLBACK, "The answer is 42. \\boxed{4", True),
        (CHOICE, "Answer: B", True),
        (CHOICE, "Answer: B.", False),
        (CHOICE, "\\boxed{B", True),
    ],
)
def test_an_answer_that_is_begun_and_not_completed_is_open(answers, text, is_open):
    assert answers.has_open_answer(text) is is_open


THINKING = ["<think>", "</think>", "\\boxed{7}", "<answer>", "</answer>", " answer is 7. "]


@given(
    st.text(alphabet="\\boxed{}#<answer>/ \n7", max_size=80)
    | st.lists(st.sampled_from(["\\boxed{", "}", "{", "7", "\\boxed", "####", "\n", " "])).map("".join)
    | st.lists(st.sampled_from(THINKING)).map("".join)
)
def test_an_answer_that_ends_is_the_one_that_is_judged(text):
    """What stands before the end is an answer to the verifier too, and a box ends where `last_box` finds one."""
    if "think" not in text:
        assert (BOX.answer_end(text, ended=True) is None) == (last_box(text) is None)
    for answers in (BOX, MARK, TAG, PHRASE, NUMBER, FALLBACK, PREFILLED):
        for ended in (False, True):
            end = answers.answer_end(text, ended)
            if end is not None:
                assert answers.extract(text[:end]) == answers.extract(text) is not None


@pytest.mark.parametrize(
    "verifier",
    [
        *(ExactVerifier(), NumericVerifier(), MathVerifier(), ExactVerifier(think_prefilled=True)),
        *(ExactVerifier(extract_from=(place,)) for place in ("mark", "tag", "phrase")),
        *(NumericVerifier(extract_from=("last_number",)), ExactVerifier(extract_from=("tag",), tag="a")),
        ExactVerifier(extract_from=("mark",), mark="A:"),
    ],
)
def test_the_example_response_is_complete_and_right(verifier):
    response = verifier.example_response("72")
    assert verifier.answer_end(response, ended=True) == len(response)
    assert verifier(response, "72").correct == 1.0


def test_votes_of_a_function_are_by_the_final_answer():
    verifier = FunctionVerifier("tests.verify.judges:judge", extract_from=("mark",))
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
    assert answer_format(verifier := ExactVerifier(extract_from=("mark",), mark="x")) is verifier


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tag": "<answer>"}, "tag: must be a name without brackets, such as answer, got '<answer>'"),
        ({"tag": "a"}, "tag: needs extract_from = \"tag\", got 'a'"),
        ({"mark": "####"}, "mark: needs extract_from = \"mark\", got '####'"),
        ({"mark": " "}, "mark: must be text on one line, such as ####, got ' '"),
        ({"extract_from": ()}, "extract_from: must list different ones of box, tag, mark, phrase, last_number"),
        ({"extract_from": ("box", "box")}, "extract_from: must list different ones"),
        ({"extract_from": ("boxes",)}, "extract_from: must list different ones"),
        ({"extract_from": "box"}, "extract_from: must list different ones"),
    ],
)
def test_impossible_formats_are_named(wrong, message):
    for cls in (FinalAnswer, ExactVerifier, ChoiceVerifier, NumericVerifier, MathVerifier):
        with pytest.raises(ValueError, match=message):
            cls(**wrong)


@pytest.mark.parametrize(
    "text",
    [
        *("\\boxed{", "\\boxed ", "\\boxed (", "####", "<answer>", "</answer>", "Answer: B", "Answer: B\n", "\n", " "),
        *(
            "<think>",
            "</think>",
            "<think></think>",
            "the answer is ",
            "answer to x is",
            "answer to ",
            "answer is **",
            "$",
        ),
    ],
)
def test_long_texts_are_read_in_linear_time(text):
    """A quadratic search would take minutes."""
    many = text * (200_000 // len(text))
    for answers in (BOX, MARK, TAG, CHOICE, PHRASE, PREFILLED):
        answers.answer_end(many, ended=False)
        answers.has_open_answer(many)
        answers.is_well_formed(many)


@pytest.mark.parametrize(
    ("answers", "response", "answer"),
    [
        (PHRASE, "The answer is 42.", "42"),
        (PHRASE, "So **Answer:** 42", "42"),
        (PHRASE, "**Final Answer**: **42**", "42"),
        (PHRASE, "The final answer is: $42$. I hope it is correct.", "42"),
        (PHRASE, "Final Answer: The final answer is $\\frac{1}{2}$. I hope it is correct.", "\\frac{1}{2}"),
        (PHRASE, "The answer is 3.5 km. Done.", "3.5 km"),
        (PHRASE, "The answer is $3$ and $4$.", "$3$ and $4$"),
        (PHRASE, "the answer is\n$$42$$.", "42"),
        (PHRASE, "**The answer is 42.**", "42"),
        (PHRASE, "The answer to the question is \\boxed{42}.", "42"),
        (PHRASE, "The answer is 41. No, the answer is 42", "42"),
        (PHRASE, "ANSWER = 42 because it is", "42"),
        (PHRASE, "The answer is 5! = 120.", "5! = 120"),
        (PHRASE, "The answers are 1 and 2.", "1 and 2"),
        (PHRASE, "The answer is 42. Now you know what the answer is.", "42"),
        (PHRASE, "answering is 42", None),
        (MARK, "#### \\boxed{42}", "42"),
        (TAG, "<Answer>\\boxed{42}</ANSWER>", "42"),
        (TAG, "<answer>42</answer> or <answer>43", None),
        (FinalAnswer(extract_from=("mark",), mark="Answer:"), "Answer: 42\n", " 42"),
        (NUMBER, "1, 2 and 3.5 m2", "3.5"),
        (NUMBER, "about -1 1/4 cups", "-1 1/4"),
        (NUMBER, "none", None),
        (FALLBACK, "\\boxed{1}. The answer is 2. Or 3", "1"),
        (FALLBACK, "The answer is 2. Or 3", "2"),
        (FALLBACK, "2 or 3", "3"),
        (FALLBACK, "It is 2. \\boxed{3", None),
        (BOX, "<think>\\boxed{42}</think> The answer is 43.", None),
        (BOX, "<think>\\boxed{42}", None),
        (BOX, "\\boxed{42}</think> The answer is 43.", None),
        (BOX, "\\boxed{42} <think>\\boxed{43}</think>", "42"),
        (BOX, "<think>\\boxed{1}</think>\\boxed{2}<think>\\boxed{3}</think>", "2"),
        (BOX, "<Thinking>\\boxed{1}</Thinking>", None),
        (BOX, "<think> a <think> \\boxed{1}</think> \\boxed{2}", "2"),
        (PREFILLED, "\\boxed{42}", None),
        (PREFILLED, "\\boxed{42}</think>\\boxed{43}", "43"),
        (PREFILLED, "<think>\\boxed{42}</think>\\boxed{43}", "43"),
    ],
)
def test_the_answer_is_where_the_setting_says_and_never_in_reasoning(answers, response, answer):
    """A box inside <think> once counted, whatever the answer behind it was."""
    assert answers.extract(response) == answer


@pytest.mark.parametrize(
    ("answers", "text", "expected"),
    [
        (BOX, "so \\boxed{1}", True),
        (BOX, "<think>\\boxed{1}</think>\\boxed{1}", True),
        (BOX, "\\boxed{1}\\fbox{1}", False),
        (BOX, "\\boxed{ }", False),
        (BOX, "<think>\\boxed{1}</think>", False),
        (TAG, "<answer>1</answer>", True),
        (TAG, "<answer>1</answer><answer>1</answer>", False),
        (TAG, "\\boxed{1}", False),
        (MARK, "#### 1", True),
        (MARK, "#### 1\n#### 1", False),
        (PHRASE, "The answer is 1.", True),
        (PHRASE, "The answer is 1. The answer is 1.", False),
        (FALLBACK, "\\boxed{1}. The answer is 1.", True),
        (NUMBER, "1 2", True),
        (NUMBER, "one", False),
    ],
)
def test_a_well_formed_response_gives_one_answer(answers, text, expected):
    assert is_well_formed(answers, text) is expected


def test_of_a_custom_format_a_complete_answer_is_well_formed():
    class Line:
        def answer_end(self, text, ended):
            return len(text) if ended and text.strip() else None

        def has_open_answer(self, text):
            return text.endswith("-")

    assert [is_well_formed(Line(), text) for text in ("a", "", "a-")] == [True, False, False]
