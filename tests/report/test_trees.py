"""Trees on disk."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trees import random_tree, with_observed
from treepo.credit.base import Advantages
from treepo.report.trees import LATER, Grading, KeptTree, read_trees, write_trees
from treepo.tree import ROOT, Tree


def decode(ids):
    return "".join(chr(97 + i % 26) for i in ids)


def equal(a: Tree, b: Tree) -> bool:
    """Node by node, log-probabilities bit by bit, and nothing scored where nothing was."""
    counts = [(t.problem_id, t.num_dropped, t.num_fallbacks, len(t.nodes)) for t in (a, b)]
    return counts[0] == counts[1] and all(
        (x.parent, x.seed, x.stop, x.from_fallback) == (y.parent, y.seed, y.stop, y.from_fallback)
        and x.token_ids.dtype == y.token_ids.dtype
        and np.array_equal(x.token_ids, y.token_ids)
        and (x.sampled_logprobs is None) == (y.sampled_logprobs is None)
        and (x.sampled_logprobs is None or x.sampled_logprobs.tobytes() == y.sampled_logprobs.tobytes())
        for x, y in zip(a.nodes, b.nodes, strict=True)
    )


def same_values(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    """None is None alone, and no number."""
    return a is b is None or (a is not None and b is not None and np.array_equal(a, b))


def test_negative_token_ids_are_damage(tmp_path):
    """Tokenizers raise OverflowError for them, and the report ended in a traceback."""
    path = tmp_path / "step-000001.parquet"
    write_trees(path, [KeptTree(random_tree(np.random.default_rng(0), 3))], decode)
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[-1]["token_ids"][0] = -5
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    with pytest.raises(ValueError, match="is damaged: tree 0: node .* has a negative token id"):
        read_trees(path)


SCORED = [(False, ""), (True, ""), (True, "leaf"), (True, "node")]
"""Whether a tree has rewards, and what has advantages."""


@settings(max_examples=30, deadline=datetime.timedelta(seconds=5))
@given(st.lists(st.tuples(st.integers(0, 2**32), st.integers(1, 9), st.sampled_from(SCORED)), min_size=1, max_size=4))
def test_trees_are_read_back_as_they_were(tmp_path_factory, drawn):
    kept = []
    for seed, num_leaves, (is_scored, credited) in drawn:
        rng = np.random.default_rng(seed)
        tree = random_tree(rng, num_leaves)
        tree.num_dropped, tree.num_fallbacks = (int(n) for n in rng.integers(100, size=2))
        num_advantages = {"leaf": num_leaves, "node": len(tree.nodes)}
        values = rng.normal(size=num_advantages[credited]) if credited else None
        advantages = None if values is None else Advantages(values, per_node=credited == "node")
        kept.append(KeptTree(tree, rng.normal(size=num_leaves) if is_scored else None, advantages))
    path = tmp_path_factory.mktemp("trees") / "trees" / "step-000001.parquet"
    write_trees(path, kept, decode)
    for before, after in zip(kept, read_trees(path), strict=True):
        assert equal(before.tree, after.tree)
        assert same_values(before.rewards, after.rewards)
        assert (before.advantages is None) == (after.advantages is None)
        if before.advantages is not None:
            assert before.advantages.per_node == after.advantages.per_node
            assert same_values(before.advantages.values, after.advantages.values)


def test_the_columns_say_what_a_reader_of_the_file_needs(tmp_path):
    tree = random_tree(np.random.default_rng(0), 5)
    write_trees(tmp_path / "t.parquet", [KeptTree(tree, np.arange(5.0), None)], decode)
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert [row["node"] for row in rows] == list(range(len(tree.nodes)))
    assert [row["text"] for row in rows] == [decode(n.token_ids.tolist()) for n in tree.nodes]
    assert [row["depth"] for row in rows] == [len(tree.path(i)) - 1 for i in range(len(rows))]
    assert rows[ROOT]["sampled_logprobs"] is None
    assert [row["reward"] for row in rows if row["stop"] is not None] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert all(row["reward"] is None for row in rows if row["stop"] is None)


def test_a_tree_that_was_not_scored_has_no_rewards(tmp_path):
    """Null, where 0.0 would say that all its answers are wrong."""
    write_trees(tmp_path / "t.parquet", [KeptTree(random_tree(np.random.default_rng(0), 3))], decode)
    assert pq.read_table(tmp_path / "t.parquet")["reward"].null_count == len(pq.read_table(tmp_path / "t.parquet"))
    assert read_trees(tmp_path / "t.parquet")[0].rewards is None


def graded(seed: int, num_leaves: int = 3) -> KeptTree:
    """A tree whose answers were graded; one of them gives none."""
    tree = random_tree(np.random.default_rng(seed), num_leaves)
    correct, bonus = np.arange(num_leaves) % 2 * 1.0, np.full(num_leaves, -0.25)
    outcomes = ["no answer", *["graded"] * (num_leaves - 1)]
    extracted = [None, *(f"{i} \ud800" for i in range(1, num_leaves))]
    parts, extra = {"correct": correct, "overlong": bonus}, {"seen": [None, "\ud800", 2.5][:num_leaves]}
    grading = Grading("What is 3 + 4?", "7", extracted, outcomes, correct, parts, extra)
    return KeptTree(tree, correct + bonus, grading=grading)


def test_how_answers_were_graded_stands_at_the_leaves(tmp_path):
    """Rewards alone did not say whether the verifier or the model was wrong. A tree without grades may lie beside."""
    kept = graded(0)
    plain = KeptTree(random_tree(np.random.default_rng(1), 2))
    path = tmp_path / "t.parquet"
    write_trees(path, [kept, plain], decode)
    back, without = read_trees(path)
    assert without.grading is None
    assert (back.grading.question, back.grading.ground_truth) == ("What is 3 + 4?", "7")
    assert back.grading.extracted_answers == [None, "1 \ufffd", "2 \ufffd"], "half a surrogate pair is no UTF-8"
    assert back.grading.outcomes == kept.grading.outcomes
    assert np.array_equal(back.grading.correct, kept.grading.correct)
    assert list(back.grading.parts) == ["correct", "overlong"]
    assert np.array_equal(sum(back.grading.parts.values()), back.rewards)
    leaves = [row for row in pq.read_table(path).to_pylist() if row["tree"] == 0 and row["stop"] is not None]
    assert [row["reward/overlong"] for row in leaves] == [-0.25] * 3
    assert back.grading.extra == kept.grading.extra, "what reward functions logged"
    assert {row["ground_truth"] for row in leaves} == {"7"}


def test_files_from_before_answers_were_kept_stay_readable(tmp_path):
    path = tmp_path / "t.parquet"
    write_trees(path, [graded(0)], decode)
    table = pq.read_table(path)
    later = [name for name in table.column_names if name in LATER or name.startswith("reward/")]
    pq.write_table(table.drop_columns(later), path)
    (back,) = read_trees(path)
    assert back.grading is None and back.rewards is not None


@pytest.mark.parametrize(("column", "value"), [("outcome", None), ("correct", None), ("ground_truth", None)])
def test_grades_that_are_not_whole_are_damage(tmp_path, column, value):
    path = tmp_path / "t.parquet"
    write_trees(path, [graded(0)], decode)
    table = pq.read_table(path)
    rows = [row | {column: value} for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    with pytest.raises(ValueError, match="is damaged"):
        read_trees(path)


def test_what_was_observed_is_read_back_and_files_without_it_have_no_column(tmp_path):
    """The columns of turns are those of trees with turns alone: other files stay what they were, byte for byte."""
    rng = np.random.default_rng(0)
    plain, tree = random_tree(rng, 4), with_observed(random_tree(rng, 6), rng, 0.8)
    write_trees(tmp_path / "plain.parquet", [KeptTree(plain)], decode)
    write_trees(tmp_path / "turns.parquet", [KeptTree(plain), KeptTree(tree)], decode)
    assert not {"observed", "turn_reward"} & set(pq.read_table(tmp_path / "plain.parquet").column_names)
    for kept, read in zip((plain, tree), read_trees(tmp_path / "turns.parquet"), strict=True):
        assert [n.observed for n in read.tree.nodes] == [n.observed for n in kept.nodes]
        assert [n.reward for n in read.tree.nodes] == [n.reward for n in kept.nodes]
        assert [n.sampled_logprobs is None for n in read.tree.nodes] == [n.sampled_logprobs is None for n in kept.nodes]
    table = pq.read_table(tmp_path / "turns.parquet")
    rows = table.to_pylist()
    rows[-1]["observed"] = True
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / "turns.parquet")
    with pytest.raises(ValueError, match="is damaged: tree 1: node .* was observed"):
        read_trees(tmp_path / "turns.parquet")
