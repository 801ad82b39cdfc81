"""A checker as a section of a recipe."""

from dataclasses import dataclass

import pytest

from treepo.config.load import resolve_as
from treepo.verify.base import Checker
from treepo.verify.math import MathChecker
from treepo.verify.pool import PoolSettings
from treepo.verify.verifiers import ChoiceChecker, ExactChecker, FunctionChecker, NumericChecker


@dataclass(frozen=True)
class Sections:
    """As those of a run."""

    checker: Checker = MathChecker()
    checking: PoolSettings = PoolSettings()


@pytest.mark.parametrize(
    ("recipe", "checker"),
    [
        ({}, MathChecker()),
        ({"use": "ExactChecker", "ignore_case": True}, ExactChecker(ignore_case=True)),
        ({"use": "NumericChecker", "rel_tol": 0.01}, NumericChecker(rel_tol=0.01)),
        ({"use": "ChoiceChecker", "letters": "ABCD"}, ChoiceChecker(letters="ABCD")),
        ({"use": "FunctionChecker", "function": "a.b:c"}, FunctionChecker("a.b:c")),
        ({"use": "treepo.task.checking:ExactChecker"}, ExactChecker()),
    ],
)
def test_ours_are_found_by_name(recipe, checker):
    assert resolve_as(Sections, {"checker": recipe}).checker == checker


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"checker": {"use": "FunctionChecker"}}, "checker.function: FunctionChecker needs a value"),
        ({"checker": {"use": "FunctionChecker", "function": "x"}}, "checker.function must be written module:function"),
        ({"checker": {"use": "NumericChecker", "rel_tol": -1.0}}, "checker.rel_tol must be a number of at least 0"),
        ({"checking": {"num_workers": -1}}, "checking.num_workers must be at least 0, got -1"),
    ],
)
def test_mistakes_are_named(recipe, message):
    with pytest.raises(ValueError, match=message):
        resolve_as(Sections, recipe)
