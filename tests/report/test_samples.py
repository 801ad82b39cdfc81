"""Samples: which trajectories, and that their text can do nothing."""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trees import star
from treepo.credit.base import Advantages
from treepo.report.run_log import append_samples, choose_samples, cut_samples
from treepo.report.trees import Grading, KeptTree
from treepo.utils.text import sanitize


def spelled(token_ids: Sequence[int]) -> str:
    return " ".join(map(str, token_ids))


def kept(num_leaves: int, rewards: Sequence[float]) -> KeptTree:
    return KeptTree(star(num_leaves), np.array(rewards), Advantages(np.array(rewards) - np.mean(rewards)))


def test_the_best_the_worst_and_some_between():
    """Of five answers three: the first, third and fifth by reward, whatever their order in the tree."""
    samples = choose_samples([kept(5, [0.5, 0.0, 1.0, 0.75, 0.25])], spelled, 1, 3)
    assert [s.reward for s in samples] == [1.0, 0.5, 0.0]
    assert [s.advantage for s in samples] == [0.5, 0.0, -0.5]


@pytest.mark.parametrize(("num_problems", "num_answers", "expected"), [(1, 9, 2), (2, 1, 2), (9, 9, 5), (0, 3, 0)])
def test_no_more_than_asked_and_no_more_than_there_are(num_problems: int, num_answers: int, expected: int):
    trees = [kept(2, [0.0, 1.0]), kept(3, [0.0, 1.0, 0.0])]
    samples = choose_samples(trees, spelled, num_problems, num_answers)
    assert len(samples) == expected == len(set(samples))


def test_a_sample_is_a_whole_trajectory():
    """Prompt, response, why it ended and how long it is are those of its leaf."""
    tree = star(2, [3, 5])
    leaf = tree.leaves()[1]
    (sample,) = choose_samples([KeptTree(tree, np.array([0.0, 1.0]))], spelled, 1, 1)
    assert sample.prompt == spelled(tree.prompt_ids)
    assert sample.response == spelled(tree.trajectory(leaf).token_ids)
    assert (sample.num_tokens, sample.stop, sample.advantage) == (5, str(tree.nodes[leaf].stop), None)


def test_an_advantage_per_node_is_that_of_the_last_one():
    """Node 0 is the root."""
    samples = choose_samples(
        [KeptTree(star(2), np.array([0.0, 1.0]), Advantages(np.array([9.0, 3.0, 4.0]), True))], spelled, 1, 2
    )
    assert [s.advantage for s in samples] == [4.0, 3.0]


@given(st.text(st.characters(exclude_categories=[])))
def test_sanitized_text_has_no_character_that_steers_anything(text: str):
    """Not even lone surrogates, which no file takes; plain text stays as it is."""
    shown = sanitize(text, multiline=True)
    shown.encode("utf-8")
    assert not [c for c in shown if c not in "\n\t" and (unicodedata.category(c)[0] == "C" or c in "\u2028\u2029")]
    assert sanitize(shown, multiline=True) == shown


def test_what_steers_a_terminal_or_turns_text_round_is_spelled_out():
    assert sanitize("a\x1b[31m\u202eb\r\tc\nä€\U0001f600", multiline=True) == "a\\x1b[31m\\u202eb\\r\tc\nä€\U0001f600"


def test_samples_are_lines_of_json(tmp_path):
    """Later steps come behind earlier ones; a response's line breaks do not break lines."""
    path = tmp_path / "samples.jsonl"
    for step in (1, 2):
        append_samples(path, step, choose_samples([kept(2, [0.0, step])], lambda ids: "a\nb\u2028", 1, 2))
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(line["step"], line["reward"]) for line in lines] == [(1, 1.0), (1, 0.0), (2, 2.0), (2, 0.0)]
    assert {line["response"] for line in lines} == {"a\nb\\u2028"}


def test_samples_of_steps_that_are_done_again_are_dropped(tmp_path: Path) -> None:
    """So that a run that goes on has none twice, and no torn line between."""
    path = tmp_path / "samples.jsonl"
    cut_samples(path, 3)
    path.write_text('{"step": 2}\n{"step": 4}\n{"ste')
    cut_samples(path, 3)
    assert path.read_text() == '{"step": 2}\n'


def test_a_sample_says_how_it_was_graded(tmp_path):
    """Extracted answer, known answer, outcome and parts of the reward, so that verifier and model can be told apart."""
    grading = Grading("2 + 2?\x1b[31m", "4", ["5", None], ["graded", "no answer"], np.zeros(2), {"format": np.ones(2)})
    grading = replace(grading, extra={"seen": ["a\x1b", None], "steps": [3, 0.5]})
    tree = KeptTree(star(2), np.array([1.0, 1.0]), grading=grading)
    append_samples(tmp_path / "samples.jsonl", 1, choose_samples([tree], spelled, 1, 2))
    first, second = map(json.loads, (tmp_path / "samples.jsonl").read_text().splitlines())
    assert (first["question"], first["ground_truth"], first["split"]) == ("2 + 2?\\x1b[31m", "4", "train")
    assert (first["extracted_answer"], first["outcome"], first["parts"]) == ("5", "graded", {"format": 1.0})
    assert (second["extracted_answer"], second["outcome"], second["correct"]) == (None, "no answer", 0.0)
    assert [first["extra"], second["extra"]] == [{"seen": "a\\x1b", "steps": 3}, {"seen": None, "steps": 0.5}]
