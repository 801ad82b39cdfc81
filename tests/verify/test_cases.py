"""Answers that a careful teacher judged, and the pairs that other projects test their graders with: `cases/`."""

from pathlib import Path

import pytest

from tests.verify.published import PROJECTS, Case, answer_cases, disagreements, read_cases, readings
from treepo.verify.math import MathVerifier

CASES = answer_cases()


def differing(cases: list[Case]) -> list[str]:
    """Every case that `MathVerifier` judges otherwise."""
    verify = MathVerifier()
    verdicts = [(case, verify(case["response"], case["answer"])) for case in cases]
    return [
        f"{case['response']} for {case['answer']} is {'right' if case['correct'] else 'wrong'}: {verdict}"
        for case, verdict in verdicts
        if (verdict.correct == 1) != case["correct"]
    ]


@pytest.mark.parametrize("kind", CASES)
def test_verdicts_are_a_careful_teachers(kind):
    assert differing(CASES[kind]) == []


def test_of_two_readings_the_documented_one_is_the_default():
    assert differing(read_cases("readings")) == []


@pytest.mark.parametrize("project", PROJECTS)
def test_verdicts_on_other_projects_pairs(project):
    assert differing(read_cases(project)) == []


@pytest.mark.parametrize("project", PROJECTS)
def test_only_pairs_that_say_why_differ_from_their_project(project):
    """`theirs` is the other verdict, and goes with a reason."""
    for case in read_cases(project):
        assert ("theirs" in case) == bool(case.get("why")), case
        assert case.get("theirs") is not case["correct"], case


def test_the_documentation_lists_every_reason_and_reading():
    page = (Path(__file__).parents[2] / "docs" / "verifying.md").read_text(encoding="utf-8")
    assert [line for line in disagreements() + readings() if line not in page] == []
