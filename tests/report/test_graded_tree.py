"""Graded trees in the terminal."""

from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from tests.trees import add_segment, tree_of
from treepo.credit.base import Advantages
from treepo.report.graded_tree import MAX_TOKENS, show_graded_tree, telling_tree
from treepo.report.trees import Grading, KeptTree
from treepo.tree import ROOT, StopReason, Tree


def graded(tree: Tree, correct: list[float], outcomes: list[str] | None = None) -> KeptTree:
    values = np.array(correct)
    outcomes = outcomes or ["graded"] * len(correct)
    grading = Grading("What is 2 + 3?", "5", [None] * len(correct), outcomes, values, {})
    return KeptTree(tree, values, Advantages(values - values.mean()), None, grading)


def test_question_forks_verdicts_and_advantages_are_shown():
    tree = Tree.from_prompt("p", np.array([0]), 0)
    fork = add_segment(tree, ROOT, [1])
    for token in (2, 3, 4):
        add_segment(tree, fork, [token], StopReason.EOS)
    add_segment(tree, ROOT, [5], StopReason.LENGTH)
    texts = {0: "a long template", 1: "2 + 3", 2: " = 5", 3: " = 6", 4: " = 5.5", 5: "[red]Hm\x1b"}
    file = StringIO()
    kept = graded(tree, [1.0, 0.0, 0.5, 0.0], ["graded", "graded", "graded", "no answer"])
    show_graded_tree(kept, lambda ids: "".join(texts[i] for i in ids), Console(file=file, width=120))
    assert [line.rstrip() for line in file.getvalue().splitlines()] == [
        "What is 2 + 3?  (known answer: 5)",
        "├── 2 + 3",
        "│   ├──  = 5  [right, +0.62, eos, 2 tokens]",
        "│   ├──  = 6  [wrong, -0.38, eos, 2 tokens]",
        "│   └──  = 5.5  [0.5 right, +0.12, eos, 2 tokens]",
        "└── [red]Hm\\x1b  [no answer, -0.38, length, 1 token]",
        "4 trajectories: 5 tokens decoded, 7 by sequential sampling (29% saved); eos 3, length 1",
    ]


def test_without_a_verifier_rewards_are_shown():
    kept = graded(tree_of({0: [1, 2]}, [1, 1]), [0.25, 0.75], ["unverified"] * 2)
    file = StringIO()
    show_graded_tree(kept, lambda ids: "x", Console(file=file, width=120))
    assert "[reward 0.25, -0.25, eos" in file.getvalue() and "[reward 0.75, +0.25, eos" in file.getvalue()


@pytest.mark.quick
def test_the_tree_that_is_shown_is_the_shortest_of_those_whose_rewards_differ_most():
    lengths = ([5, 5], [3, 3], [2, 2], [1, 1], [MAX_TOKENS, 1])
    rights = ([1.0, 0.0], [0.0, 1.0], [1.0, 0.9], [0.0, 0.0], [1.0, 0.0])
    trees = [graded(tree_of({0: [1, 2]}, list(n)), list(right)) for n, right in zip(lengths, rights, strict=True)]
    assert telling_tree(trees) is trees[1]
    assert telling_tree(trees[2:]) is trees[2]
    assert telling_tree(trees[3:]) is trees[3]
    assert telling_tree(trees[4:]) is None
    assert telling_tree([KeptTree(trees[0].tree)]) is None
    assert telling_tree([graded(trees[0].tree, [np.nan, np.nan]), trees[3]]) is trees[3]
