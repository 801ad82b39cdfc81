"""What a function of the user's own may return, and how nonsense is reported."""

from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import pytest

from treepo.data.problem import Outcome, Verdict
from treepo.verify.pool import VerifierPool, VerifierPoolSettings
from treepo.verify.verifiers import FunctionVerifier


def changed() -> Verdict:
    """A verdict that was made well and then spoilt."""
    verdict = Verdict(1.0, Outcome.GRADED, None)
    object.__setattr__(verdict, "outcome", "foo")
    object.__setattr__(verdict, "given", 5)
    return verdict


NUMBERS: dict[str, tuple[object, float]] = {
    "True": (True, 1.0),
    "np.bool_": (np.bool_(True), 1.0),
    "np.False_": (np.bool_(False), 0.0),
    "np.float32": (np.float32(0.25), 0.25),
    "np.float16": (np.float16(0.5), 0.5),
    "np.int64": (np.int64(1), 1.0),
    "0-d": (np.array(0.75), 0.75),
    "Fraction": (Fraction(1, 4), 0.25),
    "Verdict": (Verdict(np.float32(0.5), Outcome.GRADED, "x"), 0.5),
}

NONSENSE: dict[str, Callable[[], object]] = {
    "outcome": lambda: Verdict(0.0, "foo", None),
    "given": lambda: Verdict(1.0, Outcome.GRADED, extracted_answer=5),
    "text": lambda: "1",
    "np.int64": lambda: np.int64(2),
    "nan": lambda: np.float32("nan"),
    "array": lambda: np.array([0.0, 1.0]),
    "complex": lambda: 1j,
    "changed": changed,
}


def number(response: str, answer: str) -> object:
    return NUMBERS[response][0]


def nonsense(response: str, answer: str) -> object:
    return NONSENSE[response]() if response in NONSENSE else True


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(FunctionVerifier(f"{__name__}:nonsense"), VerifierPoolSettings(num_workers=1)) as shared:
        yield shared


def test_numbers_of_numpy_are_numbers():
    """np.bool_, np.float32 and np.int64 were refused, though comparing arrays gives nothing else."""
    with VerifierPool(FunctionVerifier(f"{__name__}:number"), VerifierPoolSettings(num_workers=1)) as own:
        verdicts = own.verify([(name, "") for name in NUMBERS])
    assert [(v.correct, v.outcome) for v in verdicts] == [(to, Outcome.GRADED) for _, to in NUMBERS.values()]
    assert own.crashes == []


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_a_crash_of_one_answer(name, pool):
    """An outcome that is none ended the run in the parent; an `extracted_answer` that is no text killed the worker."""
    pool.crashes.clear()
    verdicts = pool.verify([("fine", ""), (name, ""), ("fine", "")])
    assert [v.outcome for v in verdicts] == [Outcome.GRADED, Outcome.CRASHED, Outcome.GRADED]
    (problem,) = pool.crashes
    assert "Error: " in problem and "Traceback" not in problem and "exit status" not in problem


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((0.0, "foo", None), "outcome must be an Outcome, got 'foo'"),
        ((0.0, "graded", None), "outcome must be an Outcome, got 'graded'"),
        ((1.0, Outcome.GRADED, 5), "extracted_answer must be text or None, got 5"),
    ],
)
def test_a_verdict_checks_its_fields(fields, message):
    """It was made with whatever it was given, and failed far from there."""
    with pytest.raises(ValueError, match=message):
        Verdict(*fields)
