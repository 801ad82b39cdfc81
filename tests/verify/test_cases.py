"""Answers that a careful teacher judged: `cases/answers.jsonl`, by kind."""

import pytest

from tests.verify.published import answer_cases
from treepo.verify.math import MathVerifier

CASES = answer_cases()


@pytest.mark.parametrize("kind", CASES)
def test_verdicts_are_a_careful_teachers(kind):
    verify = MathVerifier()
    verdicts = [(case, verify(case["response"], case["answer"])) for case in CASES[kind]]
    assert [
        f"{case['response']} for {case['answer']} is {'right' if case['correct'] else 'wrong'}: {verdict}"
        for case, verdict in verdicts
        if (verdict.correct == 1) != case["correct"]
    ] == []
