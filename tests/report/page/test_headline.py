"""The headline of a run, and answers to the same held-out problems early and late."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.report.page.headline import headline_of
from treepo.report.page.held_out import MAX_RESPONSE, MAX_STEPS, held_out_json

SETTINGS = {
    "model.path": "/home/someone/models/Qwen2.5-0.5B",
    "data.train": ["openai/gsm8k", "./own/extra.jsonl"],
    "credit.use": "GRPO",
    "train.num_steps": 20,
    "eval.num_samples": 4,
}
METRICS = {
    0: {"eval/avg": 0.25, "eval/greedy": 0.3, "eval/pass": 0.5},
    1: {"accuracy": 0.2, "tokens/decoded": 600.0, "tokens/total": 1000.0, "time/step_s": 3600.0},
    2: {"accuracy": 0.4, "tokens/decoded": 600.0, "tokens/total": 1400.0, "time/step_s": 61.0, "eval/avg": 0.755},
}


def told(settings, metrics) -> dict[str, str]:
    return {fact["name"]: fact["value"] for fact in headline_of(settings, metrics)}


def test_a_headline_says_what_was_trained_what_came_of_it_and_what_it_cost():
    assert told(SETTINGS, METRICS) == {
        "model": "Qwen2.5-0.5B",
        "data": "openai/gsm8k, extra.jsonl",
        "estimator": "GRPO",
        "held-out accuracy": "25.0% \u2192 75.5%",
        "greedy": "30.0%",
        "pass@4": "50.0%",
        "steps": "2 of 20",
        "training time": "1:01:01",
        "tokens saved by sharing": "50%",
    }


def test_without_evaluations_the_accuracy_is_that_of_training():
    metrics = {step: {"accuracy": own["accuracy"]} for step, own in METRICS.items() if step}
    assert told({"train.num_steps": 2, "model.path": ""}, metrics) == {
        "model": "base model of the built-in task chain_sums",
        "data": "the built-in task chain_sums",
        "accuracy in training": "20.0% \u2192 40.0%",
        "steps": "2",
    }


def test_a_run_that_only_began_has_a_headline_of_what_is_known():
    assert told({}, {}) == {}
    assert set(told({"credit.use": "TreePO"}, {})) == {"model", "data", "estimator"}


@given(
    st.dictionaries(st.sampled_from([*SETTINGS]), st.none() | st.text() | st.integers() | st.lists(st.integers())),
    st.dictionaries(st.integers(0, 9), st.dictionaries(st.sampled_from([*METRICS[2]]), st.floats() | st.integers())),
)
def test_whatever_stands_in_the_files_has_a_headline(settings, metrics):
    json.dumps(headline_of(settings, metrics), allow_nan=False)


def sample(step: int, problem: str = "p", **more):
    row = {"question": "3 + 4?", "ground_truth": "7", "response": f"step {step}", "extracted_answer": str(step)}
    return {"step": step, "split": "eval", "problem": problem, "correct": 1.0, "outcome": "graded"} | row | more


def test_each_problem_has_its_answer_at_each_evaluation():
    rows = [sample(0), sample(10), sample(0, "q"), {"step": 5, "split": "train", "problem": "p"}, {"step": 5}]
    made = held_out_json(rows)
    assert (made["steps"], made["note"]) == ([0, 10], "")
    first, second = made["problems"]
    assert [answer["response"] for answer in first["answers"]] == ["step 0", "step 10"]
    assert (first["question"], first["ground_truth"]) == ("3 + 4?", "7")
    assert second["answers"][1] is None, "not asked then"


def test_of_many_evaluations_the_first_and_the_last_are_kept_and_of_many_problems_what_fits():
    rows = [sample(step, f"p{i}", response="x" * 1000) for i in range(20) for step in range(40)]
    made = held_out_json(rows, budget=60_000)
    assert len(made["steps"]) == MAX_STEPS and (made["steps"][0], made["steps"][-1]) == (0, 39)
    assert made["note"] == f"12 of 40 evaluations; {len(made['problems'])} of 20 problems"
    assert 0 < len(made["problems"]) < 20
    assert held_out_json(rows, budget=10) == {
        "steps": [],
        "problems": [],
        "note": "12 of 40 evaluations; 0 of 20 problems",
    }


def test_a_long_response_is_cut_and_says_so():
    (problem,) = held_out_json([sample(1, response="y" * (MAX_RESPONSE + 7))])["problems"]
    assert (len(problem["answers"][0]["response"]), problem["answers"][0]["num_cut"]) == (MAX_RESPONSE, 7)


@pytest.mark.parametrize(
    "name", ["step", "problem", "question", "response", "correct", "num_tokens", "outcome", "stop"]
)
@pytest.mark.parametrize("value", [None, [], {"a": 1}, True, float("nan"), 10**400, -1, "<b>"], ids=repr)
def test_rows_that_somebody_else_wrote_end_no_report(name, value):
    json.dumps(held_out_json([sample(0), sample(1) | {name: value}]), allow_nan=False)
