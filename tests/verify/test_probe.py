"""What is odd about known answers is said before a run."""

import logging

import pytest

from tests.verify.test_check_verifier import InProcess
from treepo.data.datasets import Dataset
from treepo.data.problem import Problem
from treepo.verify.numeric import NumericVerifier
from treepo.verify.probe import odd_answers, probe_dataset, read_as_text_only, sampled
from treepo.verify.verifiers import ChoiceVerifier, ExactVerifier

RATIONALE = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nAltogether 48+24 = <<48+24=72>>72.\n#### 72"
SENTENCE = "all squares of primes"


def problems(*ground_truths: str) -> list[Problem]:
    return [Problem(f"p{i}", f"{i}?", (1,), text) for i, text in enumerate(ground_truths)]


@pytest.mark.parametrize(
    ("answers", "share", "setting"),
    [
        ([RATIONALE] * 3 + ["1"], "3 of 4 (75%) hold ####", "set data.answer_after = '####'"),
        (["1"] * 999 + ["#### 1"], "1 of 1000 (0.1%) hold ####", "data.answer_after"),
        ([r"so \boxed{3}", "3"], r"1 of 2 (50%) hold a \boxed{}", "set data.answer_in_box = true"),
        (["a\nb", "3", "4"], "1 of 3 (33.3%) have several lines", "data.answer_field"),
        (["x" * 151, "x" * 150], "1 of 2 (50%) have more than 150 characters", "data.answer_after"),
    ],
)
def test_answers_that_do_not_look_like_answers_are_shown_with_their_share_and_the_setting(answers, share, setting):
    """Raw GSM8K as one's own file trained on rationales without a word."""
    (line,) = odd_answers(answers)
    assert line.startswith(share) and setting in line


@pytest.mark.parametrize("answers", [[], ["72", " 1\n", "#1", r"\frac{1}{2}"], ["a\nb"] + ["1"] * 100])
def test_answers_that_look_like_answers_are_passed_over(answers):
    assert list(odd_answers(answers)) == []


@pytest.mark.parametrize(
    ("texts", "unread"),
    [
        (["1", SENTENCE, "2", "3"], [SENTENCE]),
        ([SENTENCE, "1"], [SENTENCE]),
        (["1", "2", "1", "2"], []),
        ([SENTENCE, "all primes"], [SENTENCE, "all primes"]),
        ([SENTENCE, "all primes", "2"], [SENTENCE, "all primes"]),
        (["1"], []),
        ([], []),
    ],
)
def test_answers_that_are_recognised_as_text_alone_are_found(texts, unread):
    """The verifier judges the same text right, and every other spelling of it wrong."""
    pool = InProcess(NumericVerifier())
    found = [p.ground_truth for p in read_as_text_only(pool, problems(*texts))]
    assert found == unread
    if len(texts) > 1:
        assert all(NumericVerifier()(f"\\boxed{{{text}}}", text).correct == 1 for text in texts)


@pytest.mark.parametrize(("verifier", "texts"), [(ExactVerifier(), [SENTENCE, "1"]), (ChoiceVerifier(), ["A", "(B)"])])
def test_verifiers_that_compare_letters_understand_them(verifier, texts):
    assert read_as_text_only(InProcess(verifier), problems(*texts)) == []


def test_the_log_names_dataset_use_share_and_settings(caplog):
    caplog.set_level(logging.WARNING)
    probe_dataset(InProcess(NumericVerifier()), Dataset("mine", tuple(problems("1", SENTENCE, "2"))), "training")
    (message,) = caplog.messages
    assert message.startswith("known answers of 'mine' (training): 1 of 3 (33.3%) of those tried are recognised letter")
    assert SENTENCE in message and "verifier.use" in message and "data.answer_field" in message


def test_those_tried_are_spread_over_the_dataset():
    """The first 16 were, and a dataset is often sorted."""
    assert [p.id for p in sampled(problems(*"x" * 160))] == [f"p{10 * i}" for i in range(16)]
    assert [p.id for p in sampled(problems(*"xyz"))] == ["p0", "p1", "p2"]
    assert sampled([]) == []
