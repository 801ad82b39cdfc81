r"""Answers, other spellings of them, and answers that differ: `spellings.jsonl`."""

import json
from pathlib import Path

import pytest

from treepo.verify.math import MathVerifier

ROWS = [json.loads(line) for line in Path(__file__).with_name("spellings.jsonl").read_text("utf-8").splitlines()]
VERIFIER = MathVerifier()
NUM_SHARDS = 8


def judged(answer: str, texts: list[str]) -> set[str]:
    """Those of the texts that are the answer; fails where the verdict depends on which is the ground truth."""
    right = {text for text in texts if VERIFIER(f"\\boxed{{{text}}}", answer).correct == 1}
    for text in texts:
        assert VERIFIER.are_equal(text, answer) == VERIFIER.are_equal(answer, text) == (text in right), (answer, text)
    return right


@pytest.mark.parametrize("shard", range(NUM_SHARDS))
def test_spellings_are_the_same_answer_and_others_are_not(shard):
    for row in ROWS[shard::NUM_SHARDS]:
        assert judged(row["answer"], [row["answer"], *row["same"]]) == {row["answer"], *row["same"]}
        assert judged(row["answer"], row["different"]) == set()


@pytest.mark.parametrize("shard", range(NUM_SHARDS))
def test_the_text_that_stands_for_an_answer_is_that_answer(shard):
    """Votes compare these texts, which leave out nothing that tells answers apart."""
    for row in ROWS[shard::NUM_SHARDS]:
        for text in (*row["same"], *row["different"]):
            shown = VERIFIER(f"\\boxed{{{text}}}", "?").extracted_answer or ""
            assert VERIFIER.are_equal(shown, row["answer"]) == (text in row["same"]), (row["answer"], text, shown)


def test_answers_have_one_text_whatever_the_ground_truth_is():
    for row in ROWS[::7]:
        for text in (row["answer"], *row["same"][:2]):
            found = {VERIFIER(f"\\boxed{{{text}}}", known).extracted_answer for known in (row["answer"], "1", "x", "?")}
            assert len(found) == 1
