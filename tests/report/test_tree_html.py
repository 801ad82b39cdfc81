"""Trees, steps and runs in notebooks."""

import io
from html.parser import HTMLParser

import numpy as np
from hypothesis import given
from rich.console import Console

from tests.report.page.runs import write_run
from tests.trees import star, trees
from treepo.credit.base import Advantages
from treepo.report.notebook import step_html
from treepo.report.tree_html import tree_html
from treepo.report.tree_view import show_tree, summary
from treepo.report.trees import Grading, KeptTree
from treepo.tree import Tree
from treepo.utils.text import pluralize

HOSTILE = "</details><script>alert(1)</script><img src=x onerror=alert(1)> ' onclick='x \x1b[31m\u202e &lt;b&gt; \ud800"


def letters(ids):
    return "".join(chr(97 + i % 26) for i in ids)


class Reader(HTMLParser):
    """Tags with their attributes, and all text; fails at a tag that closes another one."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@given(trees())
def test_a_tree_shows_every_leaf_and_branches_where_paths_forked(tree):
    read = Reader(tree_html(tree, letters))
    children = tree.children()
    assert sum(tag == "details" for tag, _ in read.tags) == sum(len(own) > 1 for own in children[1:])
    for leaf in tree.leaves():
        assert f"[{tree.nodes[leaf].stop}, {pluralize(tree.response_len(leaf), 'token')}]" in read.text
    assert summary(tree) in read.text


def test_a_leaf_says_what_its_answer_is_worth():
    correct = np.array([1.0, 0.0])
    parts = {"correct": correct, "overlong": np.array([0.0, -0.5])}
    grading = Grading("What is 3 + 4?", "7", ["7", None], ["graded", "no answer"], correct, parts)
    text = Reader(tree_html(star(2), letters, rewards=np.array([1.0, -0.5]), grading=grading)).text
    assert "What is 3 + 4?" in text and "Known answer: 7" in text
    assert "right [eos" in text and "answer 7; correct 1; overlong 0; reward 1]" in text
    assert "no answer [eos" in text and "answer none; correct 0; overlong -0.5; reward -0.5]" in text


def test_an_answer_that_nobody_verifies_is_not_shown_as_wrong():
    """Where functions alone reward, each answer had "unverified" in red and "answer none"; the known one was empty."""
    grading = Grading("Say it.", "", [None] * 2, ["unverified"] * 2, np.zeros(2), {"short": np.ones(2)})
    text = Reader(tree_html(star(2), letters, rewards=np.ones(2), grading=grading)).text
    assert "unverified" not in text and "nswer" not in text and "reward 1]" in text


def test_nothing_that_a_model_writes_is_markup_in_a_notebook():
    grading = Grading(
        HOSTILE, HOSTILE, [HOSTILE] * 2, [HOSTILE] * 2, np.zeros(2), {HOSTILE: np.ones(2)} | {"b": np.ones(2)}
    )
    hostile, benign = (
        Reader(tree_html(star(2), lambda _, text=text: text, rewards=np.ones(2), grading=own, title=text))
        for text, own in (
            (HOSTILE, grading),
            ("a", Grading("a", "a", ["a"] * 2, ["a"] * 2, np.zeros(2), {"a": np.ones(2)})),
        )
    )
    assert hostile.tags == benign.tags
    assert "\\x1b[31m\\u202e" in hostile.text and "\x1b" not in hostile.text
    hostile.text.encode()


def test_a_tree_that_only_begins_to_grow_is_shown():
    """A notebook shows whatever a cell ends in."""
    tree = Tree.from_prompt("p", np.array([1, 2], np.int32), 0)
    assert "nothing is grown yet" in Reader(tree_html(tree, letters)).text


def test_long_texts_and_wide_trees_are_cut():
    """A notebook keeps its outputs."""
    read = Reader(tree_html(star(1100), lambda ids: "x" * 10_000))
    assert "100 more segments" in read.text and "6,000 more characters" in read.text
    assert sum(tag == "div" for tag, _ in read.tags) < 1100


def test_a_step_and_a_run_have_their_headlines(tmp_path):
    kept = KeptTree(star(2), np.array([0.0, 1.0]), Advantages(np.array([-1.0, 1.0])))
    read = Reader(step_html("Step 3 <b>", {"reward/mean": 0.5, "accuracy": 0.25}, [kept] * 5, letters))
    assert "Step 3 <b>" in read.text and "25.0%" in read.text and "2 more trees" in read.text
    assert "advantage +1]" in read.text
    run = write_run(tmp_path / "<i>run</i>", num_steps=3)
    assert "<i>" not in run._repr_html_() and "GRPO" in Reader(run._repr_html_()).text


def test_a_tree_is_printed_with_one_call():
    file = io.StringIO()
    show_tree(star(2), letters, Console(file=file, width=200))
    assert summary(star(2)) in file.getvalue()
