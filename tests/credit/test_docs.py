"""What docs/credit.md says of the estimators."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from treepo import credit
from treepo.credit.base import LeafEstimator

TEXT = (Path(__file__).parents[2] / "docs" / "credit.md").read_text()
WHITENED = dict(re.findall(r"^\| `(\w+)` \|.*\| (yes|no) \|", TEXT, re.MULTILINE))
NAMES = sorted(name for name in credit.__all__ if hasattr(getattr(credit, name), "whiten") and name != "Estimator")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_whitened_by_default(name: str) -> None:
    """Each estimator has a row that says so."""
    assert getattr(credit, name)().whiten == (WHITENED[name] == "yes")


def test_every_estimator_has_a_row() -> None:
    """And nothing else has."""
    assert sorted(WHITENED) == NAMES


def test_whom_the_docs_name_for_unbiased_leaves() -> None:
    """All estimators that have the setting."""
    [line] = re.findall(r"^`--credit.leaves unbiased[^\n]*", TEXT, re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", line))
    having = {n for n in NAMES if "leaves" in {f.name for f in fields(getattr(credit, n))}}
    assert having == {n for n in NAMES if issubclass(getattr(credit, n), LeafEstimator)}
    assert named & set(NAMES) == having
