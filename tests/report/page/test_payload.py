"""What a page holds of a run."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.page.runs import letters, shown, some_trees, write_run
from treepo.credit.base import Advantages
from treepo.credit.group import GRPO
from treepo.credit.subgroup import TreePO
from treepo.learn.advantages import compute_advantages
from treepo.report.page.payload import distinct, page_payload, run_payload
from treepo.report.page.series import series_of, short, spread, thousandths
from treepo.report.page.token_texts import TokenTexts
from treepo.report.page.trees import AdvantageBreakdown, TreeReader, choose_trees
from treepo.report.trees import Grading, KeptTree, read_trees, write_trees
from treepo.tree import ROOT

PLAIN = TreeReader(TokenTexts(letters), lambda step, kept: {})


def test_a_tree_is_told_whole(tmp_path):
    """From the numbers alone each node's text, log-probabilities, place and leaf can be had again."""
    folder = write_run(tmp_path / "run", tree_steps=[2], num_trees=2)
    payload = run_payload("run", shown(folder), 10**6)
    pieces = payload["trees"]["pieces"]
    (step,) = payload["trees"]["steps"]
    for kept, told in zip(read_trees(folder.tree_files()[2]), step["trees"], strict=True):
        nodes, at = kept.tree.nodes, 0
        assert told["prompt"] == letters(kept.tree.prompt_ids)
        assert told["leaves"] == kept.tree.leaves()
        assert told["lengths"][ROOT] == len(kept.tree.prompt_ids)
        for i, node in enumerate(nodes[1:], start=1):
            count = told["lengths"][i]
            assert "".join(pieces[j] for j in told["ids"][at : at + count]) == letters(node.token_ids)
            np.testing.assert_allclose(told["logprobs"][at : at + count], node.sampled_logprobs, atol=5.1e-4)
            assert (told["parents"][i], told["stops"][i]) == (node.parent, node.stop)
            at += count
        assert at == len(told["ids"]) == len(told["logprobs"])
        np.testing.assert_allclose(told["advantages"], kept.advantages.values, rtol=1e-5)


def test_how_answers_were_graded_is_told_per_leaf(tmp_path):
    folder = write_run(tmp_path / "run", tree_steps=[1])
    (kept,) = some_trees(3, 1, num_leaves=2)
    assert kept.rewards is not None
    grading = Grading("3 + 4?", "7", ["7", None], ["graded", "no answer"], np.array([1.0, 0.0]), {"own": kept.rewards})
    grading = replace(grading, extra={"steps": [3, None], "seen": ["a", "b"]})
    write_trees(folder.path / "trees" / "step-000002.parquet", [replace(kept, grading=grading)], letters)
    steps = run_payload("run", shown(folder), 10**6)["trees"]["steps"]
    assert steps[0]["trees"][0]["grading"] is None, "a file without grades"
    assert steps[1]["trees"][0]["grading"] == {
        "question": "3 + 4?",
        "ground_truth": "7",
        "extracted": ["7", None],
        "outcomes": ["graded", "no answer"],
        "correct": [1, 0],
        "parts": {"own": [0, 1]},
        "extra": {"steps": ["3", ""], "seen": ["a", "b"]},
    }


def test_without_a_tokenizer_a_segment_is_one_text(tmp_path):
    folder = write_run(tmp_path / "run", tree_steps=[1], num_trees=1)
    chosen = choose_trees(folder.tree_files(), 10**6, TreeReader(None, lambda step, kept: {}))
    (kept,), (told,), pieces = read_trees(folder.tree_files()[1]), chosen.steps[1], list(chosen.pieces)
    start = 0
    for i, node in enumerate(kept.tree.nodes[1:], start=1):
        first, *rest = (pieces[j] for j in told["ids"][start : start + told["lengths"][i]])
        assert first == letters(node.token_ids)
        assert not any(rest)
        start += told["lengths"][i]


def test_trees_stay_within_their_budget_and_what_is_left_out_is_told(tmp_path):
    folder = write_run(tmp_path / "run", tree_steps=range(0, 40, 2), num_trees=12)
    files = folder.tree_files()
    everything = choose_trees(files, 10**7, PLAIN)
    assert [len(trees) for trees in everything.steps.values()] == [12] * 20
    assert everything.notes == []
    chosen = choose_trees(files, 30_000, PLAIN)
    assert max(chosen.steps) == 38 and min(chosen.steps) == 0
    assert 1 < len(chosen.steps) < 20
    assert chosen.notes[0] == f"trees of {len(chosen.steps)} of 20 steps"
    first, last = (chosen.steps[38][i]["problem"] for i in (0, -1))
    assert first == "problem 0" and int(last.split()[1]) > 5, "problems are spread"


def test_a_budget_too_small_for_a_tree_leaves_none(tmp_path):
    folder = write_run(tmp_path / "run", tree_steps=[1])
    chosen = choose_trees(folder.tree_files(), 10, PLAIN)
    assert chosen.steps == {1: []}
    assert chosen.notes == ["0 of 3 trees of these steps"]


def test_a_file_that_was_not_written_to_its_end_is_told_and_passed_over(tmp_path):
    """A run that is killed, or under way, may leave half a file."""
    folder = write_run(tmp_path / "run", tree_steps=[1, 2])
    path = folder.tree_files()[2]
    path.write_bytes(path.read_bytes()[:500])
    chosen = choose_trees(folder.tree_files(), 10**6, PLAIN)
    assert list(chosen.steps) == [1]
    assert chosen.notes == ["trees that cannot be read: of step 2"]


def test_long_series_are_thinned_and_keep_what_was_evaluated():
    metrics = {i: {"loss": float(i), "time/step_s": 2.0} for i in range(5001)}
    for i in range(0, 5001, 100):
        metrics[i]["eval/avg"] = i / 5001
    series = series_of(metrics, max_points=1000)
    assert len(series.steps) == 1000 and series.steps[0] == 0 and series.steps[-1] == 5000
    assert sum(value is not None for value in series.metrics["eval/avg"]) == 51
    assert series.metrics["loss"] == series.steps
    assert series.seconds == [2 * (step + 1) for step in series.steps], "of all steps, not those kept alone"
    assert np.diff(series.steps).max() <= 7
    assert series.note == "metrics at 1000 of 5001 steps"


def test_a_step_without_a_number_has_none():
    series = series_of({0: {"eval/avg": 0.5}, 1: {"loss": math.nan}, 2: {"loss": 1e300 * 10}})
    assert series.metrics == {"eval/avg": [0.5, None, None], "loss": [None, None, 1e301]}


@given(st.lists(st.integers(), unique=True, max_size=30), st.integers(1, 10))
def test_what_is_spread_keeps_its_order_and_its_last(items, count):
    kept = spread(items, count)
    assert len(kept) == min(len(items), count)
    assert [item for item in items if item in kept] == kept
    assert not items or kept[-1] == items[-1]


@given(st.floats())
def test_numbers_are_finite_and_close(value):
    told = short(value)
    assert told is None or math.isclose(told, value, rel_tol=1e-5)
    assert (told is None) == (not math.isfinite(value))


@given(st.lists(st.sampled_from(["a", "b", "a (2)", "b (3)"]), max_size=8))
def test_names_of_runs_are_distinct(names):
    assert len(set(distinct(names))) == len(names)


def test_components_are_shown_where_they_add_up_to_the_stored_advantages(tmp_path):
    """With whitening by the step's own mean and std; those of another estimator's advantages are not."""
    trees = [kept.tree for kept in some_trees(0, 3)]
    rewards = [np.array([0.0, 1, 1, 0])] * 3
    found = compute_advantages(trees, rewards, TreePO())
    breakdown = AdvantageBreakdown(TreePO(), "TreePO", {7: found.metrics})
    for tree, own, advantage in zip(trees, rewards, found.by_tree, strict=True):
        told = breakdown(7, KeptTree(tree, own, advantage))
        sums = [sum(part["weight"] * part["value"] for part in parts) for parts in told["components"]]
        white = (np.array(sums) - told["whitening"]["mean"]) / told["whitening"]["std"]
        np.testing.assert_allclose(white, advantage.values, atol=1e-4)
        nothing = {"estimator": "TreePO", "components": None, "whitening": None}
        assert breakdown(8, KeptTree(tree, own, advantage)) == nothing, "its whitening is not known"
        assert AdvantageBreakdown(GRPO(), "TreePO", {})(7, KeptTree(tree, own, advantage)) == nothing
        assert breakdown(7, KeptTree(tree, own, None)) == nothing


def damaged(column, node, value):
    """A change of what one node has in a column."""

    def change(table):
        values = table[column].to_pylist()
        values[node] = value
        return table.set_column(table.column_names.index(column), column, pa.array(values))

    return change


@pytest.mark.parametrize(
    "change",
    [
        damaged("stop", -1, "tired"),
        damaged("parent", 1, 999),
        damaged("parent", 1, 1),
        damaged("parent", 0, 0),
        damaged("parent", 1, None),
        damaged("stop", 0, "eos"),
        damaged("token_ids", 1, None),
        damaged("token_ids", 1, [0] * 99),
        damaged("token_ids", 1, [2**40]),
        damaged("sampled_logprobs", 1, []),
        damaged("entropies", 1, [1.0] * 99),
        lambda table: table.drop_columns(["stop"]),
        lambda table: table.drop_columns(["tree"]),
    ],
)
def test_one_damaged_file_of_trees_is_passed_over_and_told(tmp_path, change):
    """One tree with an unknown stop reason or a parent that is not there ended the whole report; one that was its own
    parent ended it in an endless loop, or in the browser."""
    folder = write_run(tmp_path / "run", tree_steps=[1])
    kept = [replace(one, entropies=[np.zeros(len(n.token_ids)) for n in one.tree.nodes]) for one in some_trees(2, 1)]
    path = folder.path / "trees" / "step-000002.parquet"
    write_trees(path, kept, letters)
    assert list(choose_trees(folder.tree_files(), 10**6, PLAIN).steps) == [1, 2]
    pq.write_table(change(pq.read_table(path)), path)
    chosen = choose_trees(folder.tree_files(), 10**6, PLAIN)
    assert (list(chosen.steps), chosen.notes) == ([1], ["trees that cannot be read: of step 2"])


def test_an_empty_newest_file_of_trees_is_passed_over(tmp_path):
    """How many trees fit was measured by the newest file: of one without trees, that none do."""
    folder = write_run(tmp_path / "run", tree_steps=[1, 2])
    write_trees(folder.path / "trees" / "step-000003.parquet", [], letters)
    chosen = choose_trees(folder.tree_files(), 10**6, PLAIN)
    assert {step: len(trees) for step, trees in chosen.steps.items()} == {1: 3, 2: 3, 3: 0}


def test_whole_numbers_that_no_float_holds_are_left_out(tmp_path):
    """Such a number in the metrics ended the report in an OverflowError."""
    folder = write_run(tmp_path / "run", num_steps=1)
    huge = f'{{"step": 1, "time/step_s": 1{"0" * 400}, "loss": 1}}\n{{"step": 1{"0" * 400}}}\n'
    metrics = folder.path / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + huge)
    told = run_payload("run", shown(folder), 10**6)
    assert told["steps"] == [0, 1] and told["metrics"]["loss"] == [None, 1]
    json.dumps(told, allow_nan=False)


def test_seconds_so_far_count_checkpoints_too():
    series = series_of({1: {"time/step_s": 2.0, "time/checkpoint_s": 0.5, "time/wait_s": 1.0}, 2: {"time/step_s": 3.0}})
    assert series.seconds == [2.5, 5.5]


def test_an_advantage_that_is_off_by_a_thousandth_is_not_explained():
    """It is another estimator's, or one of other settings."""
    (kept,) = some_trees(0, 1)
    assert kept.advantages is not None
    breakdown = AdvantageBreakdown(GRPO(), "GRPO", {})
    assert breakdown(1, kept)["components"] is not None
    assert (
        breakdown(1, replace(kept, advantages=Advantages(kept.advantages.values + np.array([0, 1e-3, 0, 0]))))[
            "components"
        ]
        is None
    )


def test_the_same_folder_gives_the_same_payload(tmp_path):
    folder = write_run(tmp_path / "run", tree_steps=[1, 2])
    written = datetime(2026, 1, 1, tzinfo=UTC)
    one, other = (json.dumps(page_payload("t", [shown(folder)], [], written), allow_nan=False) for _ in range(2))
    assert one == other


def test_entropies_have_three_decimals_as_they_are_written():
    """A float32 that was rounded was written with fifteen digits, which made pages a third larger."""
    assert json.dumps(thousandths(np.array([0.6394, -0.0, np.nan], np.float32))) == "[0.639, 0, null]"


class Boasting(GRPO):
    """A user's estimator whose components have a bug."""

    def components(self, tree, rewards):
        return {}["nothing"]


def test_a_bug_in_an_estimator_costs_the_page_only_its_components():
    """The report used to end in a traceback."""
    (kept,) = some_trees(0, 1)
    assert AdvantageBreakdown(Boasting(), "Boasting", {})(1, kept)["components"] is None
