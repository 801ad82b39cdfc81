"""A verifier as a section of a recipe."""

from dataclasses import dataclass

import pytest

from treepo.config.load import resolve_as
from treepo.verify.base import Verifier
from treepo.verify.math import MathVerifier
from treepo.verify.numeric import NumericVerifier
from treepo.verify.pool import VerifierPoolSettings
from treepo.verify.verifiers import ChoiceVerifier, ExactVerifier, FunctionVerifier


@dataclass(frozen=True)
class Sections:
    """As those of a run."""

    verifier: Verifier = MathVerifier()
    verifier_pool: VerifierPoolSettings = VerifierPoolSettings()


@pytest.mark.parametrize(
    ("recipe", "verifier"),
    [
        ({}, MathVerifier()),
        ({"use": "ExactVerifier", "ignore_case": True}, ExactVerifier(ignore_case=True)),
        ({"use": "NumericVerifier", "rel_tol": 0.01}, NumericVerifier(rel_tol=0.01)),
        ({"use": "ChoiceVerifier", "letters": "ABCD"}, ChoiceVerifier(letters="ABCD")),
        ({"use": "FunctionVerifier", "function": "a.b:c"}, FunctionVerifier("a.b:c")),
        ({"use": "treepo.verify:ExactVerifier"}, ExactVerifier()),
    ],
)
def test_ours_are_found_by_name(recipe, verifier):
    assert resolve_as(Sections, {"verifier": recipe}).verifier == verifier


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"verifier": {"use": "FunctionVerifier"}}, "verifier.function: FunctionVerifier needs a value"),
        (
            {"verifier": {"use": "FunctionVerifier", "function": "x"}},
            "verifier.function: must be written module:function",
        ),
        ({"verifier": {"use": "NumericVerifier", "rel_tol": -1.0}}, "verifier.rel_tol: must be a number of at least 0"),
        ({"verifier_pool": {"num_workers": -1}}, "verifier_pool.num_workers: must be from 0 to 1024, got -1"),
    ],
)
def test_mistakes_are_named(recipe, message):
    with pytest.raises(ValueError, match=message):
        resolve_as(Sections, recipe)
