"""Which answers share a vote, and what the majority of them is worth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluate.exact import vote
from tests.trees import random_tree
from treepo.data.problem import MAX_EXTRACTED_LEN, Outcome, Problem, Verdict
from treepo.evaluate.answering import answer_records
from treepo.evaluate.estimates import EstimateSettings, aggregate, maj_at_k, majority
from treepo.evaluate.records import Cost, to_table
from treepo.evaluate.votes import vote_classes
from treepo.verify import ExactVerifier, NumericVerifier, VerifierPool, VerifierPoolSettings
from treepo.verify.rewards import VerifiedTree
from treepo.verify.task import VerifiedTask

POOL = VerifierPoolSettings(num_workers=1)


@dataclass
class Judge:
    """A task that can only compare answers, and remembers the batches."""

    equal: Callable[[str, str], bool]
    batches: list[list[tuple[str, str]]] = field(default_factory=list)

    def are_equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        self.batches.append(list(pairs))
        return [self.equal(*pair) for pair in pairs]


def same_size(first: str, second: str) -> bool:
    return len(first) == len(second)


def near(first: str, second: str) -> bool:
    """Not transitive: 1 is near 2, 2 near 3, and 1 not near 3."""
    return abs(int(first) - int(second)) <= 1


def classes(equal, *answers):
    return vote_classes(Judge(equal), answers)  # pyright: ignore[reportArgumentType]


def test_equal_answers_share_the_vote_of_the_most_frequent_spelling():
    assert classes(same_size, ["a", "bb", "cc", "cc", "d", None]) == [["a", "cc", "cc", "cc", "a", None]]
    assert classes(same_size, [], [None], ["x"]) == [[], [None], ["x"]]


def test_answers_to_other_problems_are_no_company():
    assert classes(same_size, ["a"], ["b", "c"]) == [["a"], ["b", "b"]]


@given(st.lists(st.none() | st.text("abc", min_size=1, max_size=4), max_size=9))
def test_of_an_equivalence_the_votes_are_its_classes(answers):
    (votes,) = classes(same_size, answers)
    for first, own in zip(answers, votes, strict=True):
        assert (first is None) == (own is None)
        for second, other in zip(answers, votes, strict=True):
            if first is not None and second is not None:
                assert (own == other) == same_size(first, second)


@given(st.lists(st.sampled_from("123456"), max_size=6))
def test_the_order_of_the_answers_does_not_matter(answers):
    """Within a tolerance 2 equals both 1 and 3; which class it joins was up to the order."""
    (votes,) = classes(near, answers)
    for order in list(permutations(range(len(answers))))[:20]:
        assert classes(near, [answers[i] for i in order]) == [[votes[i] for i in order]]
    assert all(near(answer, vote) for answer, vote in zip(answers, votes, strict=True))


def test_one_batch_per_round_over_all_problems():
    judge = Judge(same_size)
    vote_classes(judge, [["a", "b", "cc", "ddd"], ["e", "ff"], ["g"]])  # pyright: ignore[reportArgumentType]
    assert judge.batches == [[("a", "b"), ("a", "cc"), ("a", "ddd"), ("e", "ff")], [("cc", "ddd")], []]


def test_answers_that_were_cut_are_equal_only_as_texts():
    """What stands behind the cut may differ."""
    first, second = "1" * MAX_EXTRACTED_LEN, "2" * MAX_EXTRACTED_LEN
    assert classes(same_size, [first, second, first]) == [[first, second, first]]


def task_of(verifier) -> VerifiedTask:
    return VerifiedTask((), (), pool=VerifierPool(verifier, POOL))


def test_a_verifier_says_in_its_workers_which_answers_are_one():
    task = task_of(NumericVerifier())
    try:
        assert vote_classes(task, [["1/2", "0.5", "0.50", "2", "many"]]) == [["0.5", "0.5", "0.5", "2", "many"]]
    finally:
        task.close()


def test_without_are_equal_texts_are_compared_and_no_worker_starts():
    task = task_of(ExactVerifier())
    assert vote_classes(task, [["1/2", "0.5", "1/2"]]) == [["1/2", "0.5", "1/2"]]
    assert task.pool.workers == []


@dataclass(frozen=True)
class Slow(NumericVerifier):
    """Hangs, raises and ends the process over some pairs."""

    def are_equal(self, first: str, second: str) -> bool:
        if "hang" in (first, second):
            while True:
                pass
        if "raise" in (first, second):
            raise RuntimeError("no")
        return True


def test_a_comparison_that_fails_means_not_equal(caplog):
    """It cost its own pair alone; the others were compared."""
    settings = VerifierPoolSettings(num_workers=1, cpu_limit_s=0.5)
    task = VerifiedTask((), (), pool=VerifierPool(Slow(), settings))
    try:
        votes = vote_classes(task, [["hang", "a", "b"], ["raise", "c"], ["d", "e"]])
        assert votes == [["hang", "a", "a"], ["raise", "c"], ["d", "d"]]
    finally:
        task.close()
    assert "RuntimeError: no" in caplog.text


@pytest.mark.parametrize(
    ("correct", "votes", "worth"),
    [
        ([1, 1, 0], ["7", "7", "8"], 1.0),
        ([1, 0, 0], ["7", "8", "8"], 0.0),
        ([1, 0], ["7", "8"], 0.5),
        ([1, 0, 0], ["7", "8", "9"], 1 / 3),
        ([1, 0, 0], ["7", None, None], 1.0),
        ([1, 0.5], ["7", "7"], 0.75),
        ([0, 0], [None, None], 0.0),
        ([1], ["7"], 1.0),
    ],
)
def test_the_majority_shares_ties_evenly_and_counts_no_missing_answer(correct, votes, worth):
    assert majority(np.array(correct, float), votes) == pytest.approx(worth)


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.none() | st.sampled_from("789")), min_size=1, max_size=6))
def test_the_majority_is_the_vote_of_all_answers_once(pairs):
    """Against the definition over one draw of every answer; with one answer it is maj@1."""
    correct, votes = [c for c, _ in pairs], [v for _, v in pairs]
    assert majority(np.array(correct), votes) == pytest.approx(float(vote(range(len(pairs)), correct, votes)))
    one = majority(np.array(correct[:1]), votes[:1])
    assert one == maj_at_k(np.array(correct[:1]), votes[:1], 1, np.random.default_rng(0))


def test_the_majority_needs_a_vote_per_answer():
    with pytest.raises(ValueError, match="votes: 1 votes for 2 values of correct"):
        majority(np.ones(2), ["7"])


def test_records_keep_the_answer_and_its_vote():
    """1/2, 0.5 and 2/4 are one vote of three, which wins over 7, named twice."""
    problem = Problem("p", "?", (1,), "1/2", "set")
    task = task_of(NumericVerifier())
    tree = random_tree(np.random.default_rng(0), num_leaves=6)
    given = [(1.0, "1/2"), (1.0, "0.5"), (1.0, "2/4"), (0.0, "7"), (0.0, "7"), (0.0, None)]
    verdicts = [Verdict(correct, Outcome.GRADED, answer) for correct, answer in given]
    answered = VerifiedTree(problem, tree, tree.trajectories(), [""] * 6, verdicts, task.answers)
    try:
        records = answer_records(task, [answered], str, model="m", setting="s")
    finally:
        task.close()
    assert [r.extracted_answer for r in records] == [answer for _, answer in given]
    assert [r.vote for r in records] == ["0.5", "0.5", "0.5", "7", "7", None]
    (result,) = aggregate(to_table(records), {("m", "s"): Cost()}, EstimateSettings(num_resamples=1))
    assert result.overall.majority is not None and result.overall.majority.value == 1.0
