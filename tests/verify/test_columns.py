"""Columns of a problem's record reach the verifier, through worker processes, and the reward."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from treepo.config.load import resolve
from treepo.data.datasets import Dataset
from treepo.data.problem import Outcome, Problem, Verdict
from treepo.errors import SettingError, VerifierStartError
from treepo.verify.base import FinalAnswer
from treepo.verify.columns import WantedColumns, wanted_columns
from treepo.verify.pool import VerifierPool, VerifierPoolSettings
from treepo.verify.probe import probe_dataset
from treepo.verify.task import VerifiedTask
from treepo.verify.verifiers import FunctionVerifier

ONE = VerifierPoolSettings(num_workers=1)
COLUMNS = {"tests": [[1, 2], [3, 6]], "level": 3, "response": "theirs", "self": 0, "a b": None, "answer": "2"}


@dataclass(frozen=True)
class Echo(FinalAnswer):
    """Gives back which columns it got."""

    def __call__(self, response: str, ground_truth: str, level: int = 0, **columns: Any) -> Verdict:
        return Verdict(1.0, Outcome.GRADED, repr((response, ground_truth, level, sorted(columns))))


@dataclass(frozen=True)
class Plain(FinalAnswer):
    """Has two arguments and fails with more."""

    def __call__(self, response: str, ground_truth: str) -> Verdict:
        return Verdict(1.0, Outcome.GRADED, None)


def by_tests(response: str, ground_truth: str, tests: list[list[int]], level: int = 1) -> float:
    """Right is twice the input, whatever the ground truth says."""
    return float(all(eval(response, {"x": x}) == y for x, y in tests)) * level / 3


def keeps_all(completion: str, answer: str, **columns: Any) -> float:
    """Its own names of the first two parameters are columns, too, and are not passed twice."""
    assert set(columns) == {"tests", "level", "response", "a b"}, columns
    return 1.0


def two(response: str, ground_truth: str) -> bool:
    return True


def hidden(response: str, ground_truth: str, tests: list[int], /) -> bool:
    return True


def function(name: str) -> VerifierPool:
    return VerifierPool(FunctionVerifier(f"{__name__}:{name}"), ONE)


def test_parameters_that_are_columns_are_passed_by_name():
    """Only response and ground truth reached the function."""
    with function("by_tests") as pool:
        verdicts = pool.verify([("2*x", ""), ("x", ""), ("2*x", "")], [COLUMNS, COLUMNS, COLUMNS | {"level": 1.5}])
    assert [v.correct for v in verdicts] == [1.0, 0.0, 0.5]
    assert pool.crashes == []


def test_all_columns_are_passed_where_all_are_asked_for():
    with function("keeps_all") as pool:
        assert [v.correct for v in pool.verify([("r", "g")], [COLUMNS])] == [1.0], pool.crashes
    with VerifierPool(Echo(), ONE) as pool:
        (verdict,) = pool.verify([("r", "g")], [COLUMNS])
    assert verdict.extracted_answer == repr(("r", "g", 3, ["a b", "answer", "tests"]))


@pytest.mark.parametrize("make", [lambda: VerifierPool(Plain(), ONE), lambda: function("two")])
def test_a_verifier_of_two_arguments_gets_two_and_nothing_is_sent(make: Callable[[], VerifierPool], monkeypatch):
    written = []
    with make() as pool:
        pool.verify([("a", "b")])
        (worker,) = pool.workers
        write = worker.write
        monkeypatch.setattr(worker, "write", lambda messages=b"": (written.append(messages), write(messages)))
        assert [v.correct for v in pool.verify([("r", "g")], [COLUMNS | {"long": "x" * 10**7}])] == [1.0]
    assert 0 < sum(map(len, written)) < 1000


def test_a_column_that_is_needed_and_missing_is_a_mistake_in_the_settings():
    with function("by_tests") as pool:
        message = "^verifier.function: needs the column 'tests', which a record lacks; there are 'level', 'answer', got"
        with pytest.raises(SettingError, match=message):
            pool.verify([("x", "")], [{"level": 1, "answer": "1"}])
        problems = [Problem(f"p{i}", "?", (1,), str(i), "d", COLUMNS) for i in range(20)]
        pool.verify([("x", "")], [COLUMNS])
        # Not among those that are tried.
        problems[19] = Problem("p19", "?", (1,), "19", "d", {"level": 1})
        message = "^verifier.function: needs the column 'tests', which the record of p19 lacks"
        with pytest.raises(SettingError, match=message):
            probe_dataset(pool, Dataset("d", tuple(problems)), "training")


def test_a_task_passes_the_columns_of_its_problems():
    problem = Problem("p", "?", (1,), "", "d", COLUMNS)
    with function("by_tests") as pool:
        task = VerifiedTask((Dataset("d", (problem,)),), (), pool=pool)
        assert [v.correct for v in task.verify([(problem, "2*x"), (problem, "7")])] == [1.0, 0.0]


def test_a_parameter_that_cannot_be_passed_by_name_is_refused():
    with (
        function("hidden") as pool,
        pytest.raises(VerifierStartError, match="its parameter 'tests' must be one that can be passed by keyword"),
    ):
        pool.verify([("a", "b")])


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda r, g: 1, WantedColumns(never=("self", "r", "g"))),
        (lambda *args: 1, WantedColumns(never=("self",))),
        (lambda r, g, /, c, *, d=1: 1, WantedColumns(("c", "d"), ("c",), never=("self",))),
        (lambda r, g, **all: 1, WantedColumns(takes_all=True, never=("self", "r", "g"))),
        (max, WantedColumns()),
        (Echo(), WantedColumns(("level",), (), True, ("self", "response", "ground_truth"))),
    ],
)
def test_what_a_verifier_asks_for_is_what_its_parameters_say(call, expected):
    assert wanted_columns(call) == expected


def test_classes_may_ask_for_columns_and_other_strategies_for_nothing(tmp_path: Path, monkeypatch):
    """A verifier with a third argument was refused."""
    (tmp_path / "own_columns.py").write_text(
        "from dataclasses import dataclass\n"
        "from treepo.verify import FinalAnswer\n"
        "@dataclass(frozen=True)\n"
        "class Wants(FinalAnswer):\n"
        "    def __call__(self, response, ground_truth, tests, *, level=1): ...\n"
        "@dataclass(frozen=True)\n"
        "class Swapped(FinalAnswer):\n"
        "    def __call__(self, ground_truth, response, tests): ...\n"
        "@dataclass(frozen=True)\n"
        "class Paid:\n"
        "    def __call__(self, answers, more): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert type(resolve({"verifier": {"use": "own_columns:Wants"}}).verifier).__name__ == "Wants"
    for section, name in (("verifier", "Swapped"), ("reward", "Paid")):
        with pytest.raises(SettingError, match="but must be with"):
            resolve({section: {"use": f"own_columns:{name}"}})
