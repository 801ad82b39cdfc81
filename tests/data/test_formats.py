"""How records hold questions and answers."""

import pytest

from treepo.data.formats import RecordFormat
from treepo.data.sources import PRESETS
from treepo.verify.math import MathVerifier

DAPO = {
    "data_source": "math_dapo",
    "prompt": [
        {
            "role": "user",
            "content": "Solve the following math problem step by step. The last line of your response should be of the "
            "form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\nLet $n$ be odd. "
            'What is $2n$ mod 4?\n\nRemember to put your answer on its own line after "Answer:".',
        }
    ],
    "ability": "MATH",
    "reward_model": {"ground_truth": "2", "style": "rule-lighteval/MATH_v2"},
    "extra_info": {"index": "9a9b6eb4"},
}
OLYMPIAD = {
    "id": 1606,
    "question": "Find $T$.",
    "final_answer": ["$2$"],
    "context": None,
    "unit": None,
    "is_multiple_answer": False,
}


def test_the_answer_follows_the_last_mark():
    assert RecordFormat(answer_after="####").ground_truth({"answer": "#### no, wait\n#### 72 "}) == "72"


@pytest.mark.parametrize(
    ("answer", "message"), [("72", "no '####' in field 'answer'"), ("72 ####", "nothing after '####' in field")]
)
def test_a_mark_that_says_nothing_is_named(answer, message):
    with pytest.raises(ValueError, match=message):
        RecordFormat(answer_after="####").ground_truth({"answer": answer})


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"first \boxed{1}, then $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"so $\boxed{1}$ and $\boxed 2$.", "2"),
        (r"so $\boxed 2$ and $\boxed{3}$.", "3"),
        (r"so $\boxed \frac{1}{2}$.", r"\frac{1}{2}"),
        (r"so $\boxed {4}$.", "4"),
        (r"so \fbox{5}.", "5"),
    ],
)
def test_the_last_box_of_a_solution(solution, answer):
    """MATH writes a few of its boxes without braces, or as \\fbox; a set is not to be lost for those."""
    assert RecordFormat(answer_field="solution", answer_in_box=True).ground_truth({"solution": solution}) == answer


@pytest.mark.parametrize(
    ("solution", "message"),
    [("so 2", "no complete"), (r"so \boxed{ }", "is empty"), (r"so \boxed{6} and \boxed{7", "no complete")],
)
def test_a_solution_without_an_answer_is_named(solution, message):
    with pytest.raises(ValueError, match=f"{message}.*"):
        RecordFormat(answer_field="solution", answer_in_box=True).ground_truth({"solution": solution})


def test_a_nested_field_is_named_with_dots_and_one_that_is_missing_lists_all():
    form = RecordFormat("extra.q", "reward_model.ground_truth")
    record = {"extra": {"q": "?"}, "reward_model": {"style": "rule"}, "id": 1}
    assert form.question(record) == "?"
    with pytest.raises(
        ValueError, match=r"no field 'reward_model.ground_truth'; there are \['extra.q', 'id', 'reward_model.style'\]"
    ):
        form.ground_truth(record)
    assert form.question({"extra.q": "just that name", "extra": {"q": "?"}}) == "just that name"


@pytest.mark.parametrize(
    "turns",
    [
        [],
        ["text"],
        [{"role": "user"}],
        [{"role": "assistant", "content": "a"}],
    ],
)
def test_a_chat_that_asks_nothing_is_refused(turns):
    with pytest.raises(ValueError, match="field 'prompt' must be text or a"):
        RecordFormat().question({"prompt": turns})


def test_a_system_turn_is_no_part_of_the_question():
    turns = [{"role": "system", "content": "Think."}, {"role": "user", "content": "1+1?"}]
    assert RecordFormat().question({"prompt": turns}) == "1+1?"


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        (["$2$"], "2"),
        (["$2$", "3"], "2, 3"),
        (["$x$ or $y$"], "$x$ or $y$"),
        (["$(1,8,19), (2,7,13)$"], "(1,8,19), (2,7,13)"),
        ([4, 5.5], "4, 5.5"),
    ],
)
def test_several_answers_are_joined(given, answer):
    assert RecordFormat().ground_truth({"answer": given}) == answer


def test_an_empty_list_of_answers_is_named():
    with pytest.raises(ValueError, match="field 'answer' is an empty list"):
        RecordFormat().ground_truth({"answer": []})
    with pytest.raises(ValueError, match="field 'answer' must be text or a number, got None"):
        RecordFormat().ground_truth({"answer": [None]})


def test_only_some_records_are_taken():
    levels = ["Level 1", "Level 3", "Level 5", "Level ?", 2, 4, "5"]
    taken = [level for level in levels if PRESETS["math"].form.takes({"level": level})]
    assert taken == ["Level 3", "Level 5", 4, "5"]
    with pytest.raises(ValueError, match=r"no field 'level'; there are \['problem'\]"):
        PRESETS["math"].form.takes({"problem": "?"})


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="answer_after: excludes answer_in_box"):
        RecordFormat(answer_after="####", answer_in_box=True)
    for settings in ({"only_field": "level"}, {"only": ("3",)}):
        with pytest.raises(ValueError, match="only_field and only go together"):
            RecordFormat(**settings)


@pytest.mark.parametrize(
    ("name", "record", "question", "answer"),
    [
        ("gsm8k", {"question": "How many?", "answer": "1+1=<<1+1=2>>2\n#### 2"}, "How many?", "2"),
        ("math500", {"problem": "p", "solution": r"\boxed{9}", "answer": "9", "level": 2}, "p", "9"),
        (
            "math",
            {"problem": "p", "level": "Level 5", "type": "Algebra", "solution": r"$\boxed{\text{(A)}}$"},
            "p",
            r"\text{(A)}",
        ),
        (
            "aime24",
            {"id": 60, "problem": "p", "solution": "s", "answer": "025", "url": "u", "year": "2024"},
            "p",
            "025",
        ),
        ("aime25", {"id": "0", "problem": "p", "answer": "70"}, "p", "70"),
        ("amc23", {"id": 0, "question": "q", "answer": "27.0", "url": "u"}, "q", "27.0"),
        ("minerva", {"question": "q", "answer": "1.6e-19"}, "q", "1.6e-19"),
        ("olympiad", OLYMPIAD, "Find $T$.", "2"),
        ("dapo17k", DAPO, "Let $n$ be odd. What is $2n$ mod 4?", "2"),
        (
            "simplerl",
            {
                "prompt": [{"role": "user", "content": "<|im_start|>user\nq"}],
                "reward_model": {"ground_truth": "7", "style": "rule"},
                "extra_info": {"question": "q", "level": 3, "index": 0},
            },
            "q",
            "7",
        ),
        ("deepscaler", {"problem": "p", "answer": r"\frac{1}{2}", "solution": "s"}, "p", r"\frac{1}{2}"),
    ],
)
def test_records_in_the_published_schemas(name, record, question, answer):
    """Made records; those of the sets at hand are read as published in test_real_sets.py."""
    form = PRESETS[name].form
    assert form.takes(record)
    assert (form.question(record), form.ground_truth(record)) == (question, answer)
    assert MathVerifier()(f"so \\boxed{{{answer}}}", answer).correct == 1


def test_olympiad_context_and_unit_are_told_with_the_question():
    record = {**OLYMPIAD, "context": "A lattice.", "unit": "cm"}
    question = PRESETS["olympiad"].form.question(record)
    assert question.startswith("A lattice.\nFind $T$.\n")
    assert question.endswith("units of cm, without writing the unit.")


def test_an_instruction_that_is_missing_is_not_missed():
    """DAPO's questions as others publish them, without the texts around them, stay whole."""
    bare = {**DAPO, "prompt": "Solve the following puzzle: 1+1?"}
    assert PRESETS["dapo17k"].form.question(bare) == "Solve the following puzzle: 1+1?"
    only_texts = {**DAPO, "prompt": PRESETS["dapo17k"].form.prefix + PRESETS["dapo17k"].form.suffix}
    with pytest.raises(ValueError, match="field 'prompt' is empty"):
        PRESETS["dapo17k"].form.question(only_texts)
