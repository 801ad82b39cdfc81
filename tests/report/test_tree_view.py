"""Trees in the terminal."""

import io
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.report.printed import read_printed
from tests.trees import add_segment, tree_of, trees
from treepo.report.tree_view import TreeView, summary, visible_text
from treepo.tree import ROOT, StopReason, Tree


def letters(ids):
    return "".join(chr(97 + i % 26) for i in ids)


def printed(tree: Tree, decode=letters, width: int = 200, encoding: str = "utf-8", color: bool = False) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="")
    Console(file=file, width=width, force_terminal=color).print(TreeView(tree, decode), crop=False)
    file.flush()
    return raw.getvalue().decode(encoding)


@given(trees())
def test_what_is_printed_is_the_tree(tree):
    """Read along the branches, each leaf has its whole response, stop reason and length, and the prompt stands once."""
    prompt, leaves = read_printed(printed(tree))
    in_order = [tree.trajectory(i) for i in tree.top_down() if tree.nodes[i].stop is not None]
    assert prompt == letters(tree.prompt_ids)
    assert leaves == [
        (letters(t.token_ids), f"{t.stop}, {len(t.token_ids)} token{'s' if len(t.token_ids) > 1 else ''}")
        for t in in_order
    ]


@given(trees(min_leaves=2))
def test_it_branches_where_paths_forked_and_nowhere_else(tree):
    children = tree.children()
    below_forks = sum(len(c) for i, c in enumerate(children) if len(c) > 1 or i == ROOT)
    assert printed(tree).count("── ") == below_forks


def test_segments_without_a_fork_between_them_are_decoded_as_one():
    """A character may lie across a border."""
    tree = tree_of({0: [1], 1: [2]}, [1, 1])
    tree_text = printed(tree, lambda ids: {1: "e", 2: "n", 7: "?"}[ids[0]] if len(ids) == 1 else "é")
    assert read_printed(tree_text) == ("?", [("é", "eos, 2 tokens")])


def test_deep_trees_keep_their_text_in_narrow_terminals():
    """rich drops text, without a word, for which no column is left."""
    depth = 30
    tree = tree_of({2 * i: (2 * i + 1, 2 * i + 2) for i in range(depth)})
    assert read_printed(printed(tree, width=20)) == read_printed(printed(tree, width=500))
    assert len(read_printed(printed(tree, width=20))[1]) == depth + 1


NASTY = "\x1b[31mred\x1b]0;title\x07\r\b\x9b2J\x7f\u202egnp\u2028\t[bold]x[/bold][link=file:///]:smile:[/]\\"


@pytest.mark.parametrize("color", [False, True])
def test_text_is_neither_markup_nor_obeyed_by_the_terminal(color):
    """A model may write anything."""
    sent = printed(tree_of({0: [1]}), lambda _: NASTY, color=color)
    assert "\x1b[31m" not in sent
    shown = re.sub(r"\x1b\[[0-9;]*m", "", sent) if color else sent
    assert {c for c in shown if not c.isprintable()} == {"\n"}
    for text in ("\\x1b[31mred", "\\x1b]0;title\\x07", "\\x9b2J", "[bold]x[/bold][link=file:///]:smile:[/]\\"):
        assert shown.count(text) == 2


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_only_line_breaks_control_anything(text):
    shown = visible_text(text).plain
    assert all(c == "\n" or c.isprintable() or unicodedata.category(c) == "Zs" for c in shown)
    assert shown.count("\n") == text.removesuffix("\n").count("\n")


def test_line_breaks_are_marked_and_break_the_line():
    assert visible_text("\na\n\nb\n").plain == "\\n\na\\n\n\\n\nb\\n"
    assert printed(tree_of({0: [1]}), lambda _: "a\nb\n") == "a\\n\nb\\n\n└── a\\n\n    b\\n  [eos, 1 token]\n"


def test_a_terminal_is_not_sent_what_its_encoding_lacks():
    """This was a traceback."""
    text = printed(tree_of({0: [1]}), lambda _: "é→𝄞", encoding="ascii")
    assert text.splitlines()[1].endswith("\\xe9\\u2192\\U0001d11e  [eos, 1 token]")
    assert "é" in printed(tree_of({0: [1]}), lambda _: "é→", encoding="latin-1")


def test_the_summary_counts_tokens_as_they_were_decoded_and_as_they_are_read():
    tree = tree_of({0: [1, 2], 1: [3, 4]}, [10, 5, 3, 7])
    add_segment(tree, ROOT, [1, 2], StopReason.ANSWER)
    tree.num_dropped = 4
    assert summary(tree) == (
        "4 trajectories: 31 tokens decoded, 37 by sequential sampling (16% saved); eos 3, answer 1"
    )
    assert summary(tree_of({0: [1]})) == "1 trajectory: 1 token decoded, 1 by sequential sampling (0% saved); eos 1"


def test_what_a_branch_has_in_common_with_the_one_above_is_dim():
    """At one fork, in whole words: the rest is where they part."""
    tree, texts = Tree.from_prompt("p", np.array([0]), 0), {0: "?"}
    for i, text in enumerate(["26 + 3 = 29", "26 + 3 = 28", "26 + 3 = 28", "26 + 3", "6"], start=1):
        texts[i] = text
        add_segment(tree, ROOT, [i], StopReason.EOS)
    lines = printed(tree, lambda ids: texts[ids[0]], color=True).splitlines()[1:]
    dim = ["".join(re.findall(r"\x1b\[2m(.*?)\x1b\[0m", line)) for line in lines]
    assert dim == ["", "26 + 3 = ", "26 + 3 = 28", "26 + 3", ""]
