"""What is said of steps, runs and evaluations that teach nothing."""

from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.evaluate.results import DatasetResult, Estimate
from treepo.report.diagnosis import StepWatch, diagnose_result, diagnose_run, diagnose_step

pytestmark = pytest.mark.quick

GOOD = {
    "reward/mean": 0.4,
    "problems/grown": 16,
    "problems/trained": 9,
    "problems/solved": 3,
    "problems/failed": 4,
    "leaves/mean": 8.0,
    "completions/clipped_ratio": 0.1,
    "stop/repetition": 0.0,
    "verify/no_answer": 0.1,
    "verify/unparsed": 0.0,
    "verify/timeout": 0.0,
    "verify/crashed": 0.0,
}
NO_SIGNAL = GOOD | {"problems/trained": 0}


@pytest.mark.parametrize(
    ("changed", "share", "setting"),
    [
        ({"completions/clipped_ratio": 0.97}, "97%", "tree.max_response_len"),
        (
            {"completions/clipped_ratio": 1.0, "verify/no_answer": 0.2, "accuracy": 0.1},
            "80%",
            'stopping.answer = "answer"',
        ),
        ({"stop/repetition": 0.95}, "95%", "[stopping]"),
        ({"verify/no_answer": 0.999}, "99.9%", "prompt.question"),
        ({"verify/no_answer": 0.92, "completions/clipped_ratio": 0.5}, "50%", "tree.max_response_len"),
        ({"verify/unparsed": 1.0}, "100%", "verifier.use"),
        ({"verify/timeout": 0.5, "verify/crashed": 0.5}, "100%", "[verifier_pool]"),
        ({"problems/trained": 0, "problems/solved": 16, "problems/failed": 0}, "all answers are right", "data.train"),
        ({"problems/trained": 0, "problems/solved": 0, "problems/failed": 16}, "all answers are wrong", "model.path"),
        (
            {"problems/trained": 0, "problems/solved": 0, "problems/failed": 16, "completions/clipped_ratio": 0.75},
            "75% are cut off",
            "tree.segment_len",
        ),
        ({"problems/trained": 0, "problems/solved": 6, "problems/failed": 10}, "16 of 16", "tree.width"),
        ({"problems/trained": 0, "leaves/mean": 1.0}, "one answer", "tree.width"),
        ({"problems/trained": 0}, "16 of 16", "[reward]"),
        ({"update/frac_unchanged": 0.88, "update/lr": 1e-4}, "88%", "optim.lr (0.0001 here)"),
        ({"update/frac_no_gradient": 1.0}, "no gradient", "optim.max_grad_norm"),
        ({"update/frac_unchanged": 0.996}, "99.6%", 'model.dtype = "float32" with train.autocast = "bfloat16"'),
        ({"environment/lost": 0.75, "stop/env_timeout": 0.5, "stop/env_error": 0.25}, "50% took", "timeout_s"),
        ({"turns/max": 1, "completions/clipped_ratio": 0.96}, "96% are cut off", "environment.max_observed_tokens"),
        ({"problems/trained": 0, "environment/lost": 0.1}, "all answers to a problem the same", "tree.width"),
    ],
)
def test_a_useless_step_is_said_with_its_share_and_the_setting_to_change(changed, share, setting):
    """Such runs ended without a word, and their table read like a success."""
    found = diagnose_step(GOOD | changed)
    assert found is not None
    assert share in found.text and setting in found.text


def test_a_step_that_teaches_something_is_not_mentioned():
    assert diagnose_step(GOOD) is None
    clipped = diagnose_step(GOOD | {"completions/clipped_ratio": 0.97})
    assert clipped is not None and "hold an answer" not in clipped.text, "nothing was verified"
    abstaining = diagnose_step({"problems/grown": 2, "problems/trained": 0})
    assert abstaining is not None and abstaining.kind == "abstaining", "rewards that all abstain were called equal"
    assert diagnose_step(GOOD | {"problems/trained": 1, "completions/clipped_ratio": 0.89}) is None
    assert diagnose_step(GOOD | {"update/frac_unchanged": 0.4, "update/frac_no_gradient": 0.6}) is None
    assert diagnose_step(GOOD | {"turns/max": 1, "stop/env_done": 0.9, "environment/lost": 0.1}) is None


@given(st.lists(st.booleans(), max_size=40))
def test_it_is_said_at_the_first_step_or_after_three_and_ever_more_rarely(useless):
    """Reference: useless steps in a row are mentioned at the a-th, 5th (6th), and after twice as many each time;
    a = 1 at the start, else 3."""
    watch = StepWatch()
    spoken = [watch.observe(NO_SIGNAL if bad else GOOD) is not None for bad in useless]
    lasting = list(accumulate(useless, lambda n, bad: n + 1 if bad else 0, initial=0))[1:]
    expected = []
    for i, n in enumerate(lasting):
        expected.append(n in ({1, 5, 10, 20, 40} if n == i + 1 else {3, 6, 12, 24}))
    assert spoken == expected


def test_the_table_of_a_run_names_what_was_wrong_with_half_of_it():
    assert diagnose_run([GOOD, GOOD, NO_SIGNAL]) == []
    (line,) = diagnose_run([GOOD, NO_SIGNAL, NO_SIGNAL])
    assert line.startswith("2 of 3 steps: no tree carries a signal")
    assert diagnose_run([]) == []


def result(avg: float, outcomes: dict[str, float], clipped: float | None = 0.0) -> DatasetResult:
    estimate = Estimate(avg, avg, avg)
    return DatasetResult("set", 10, 40, estimate, estimate, {1: estimate}, 12.0, outcomes, clipped)


@pytest.mark.parametrize(
    ("given_result", "said"),
    [
        (result(0.0, {"no answer": 1.0}, 1.0), "tree.max_response_len"),
        (result(0.01, {"no answer": 0.95, "graded": 0.05}), "prompt.question"),
        (result(0.0, {"graded": 1.0}), "none of 40"),
        (result(1.0, {"graded": 1.0}), "all 40"),
        (result(0.5, {"graded": 1.0}, None), None),
        (result(0.0, {"unverified": 1.0}), "no answer got a reward"),
        (result(1.0, {"unverified": 1.0}), None),
        (replace(result(0.5, {"unverified": 1.0}), lost_ratio=0.8), "80% of the answers are lost"),
    ],
)
def test_an_evaluation_that_measures_nothing_says_so(given_result, said):
    found = diagnose_result(given_result)
    assert found is None if said is None else said in str(found)
