"""What the page computes of trees, in a real browser: what is drawn of them, their credit, what trajectories share."""

from pathlib import Path

import numpy as np
import pytest

from tests.report.browser import browser
from tests.report.explorer_page import forest, page, tree_json
from tests.trees import add_segment, star
from treepo.tree import StopReason, Tree

__all__ = ["browser", "forest", "page"]

MODELS = """trees => trees.map(tree => {
  const model = treepo.treeModel(tree);
  const below = [...Array(model.size).keys()].map(i => treepo.leavesBelow(model, i));
  return {...model, below, sharing: treepo.sharing(tree), place: null};
})"""


def test_what_is_drawn_of_a_tree_agrees_with_the_tree(page, forest):
    models = page.evaluate(MODELS, [tree_json(tree, "", rewards) for tree, rewards in forest])
    for (tree, rewards), model in zip(forest, models, strict=True):
        groups, leaves, nodes = tree.groups(), tree.leaves(), range(len(tree.nodes))
        assert model["order"] == list(tree.top_down())
        assert model["depth"] == [len(tree.path(i)) - 1 for i in nodes]
        assert model["end"] == [tree.response_len(i) for i in nodes]
        assert [sorted(below) for below in model["below"]] == [sorted(leaves[k] for k in groups[i]) for i in nodes]
        assert model["reward"] == pytest.approx([rewards[groups[i]].mean() for i in nodes])
        logprobs = [float(tree.logprobs(i).mean()) for i in nodes[1:]]
        assert model["logprob"][0] is None
        assert model["logprob"][1:] == pytest.approx(logprobs, abs=1e-6)
        total = sum(tree.response_len(leaf) for leaf in leaves)
        assert model["sharing"] == pytest.approx(1 - tree.num_decoded() / total)


def test_rows_are_depth_first_and_a_node_lies_among_the_rows_below_it(page, forest):
    """So links never cross, and a group is one band."""
    for model in page.evaluate(MODELS, [tree_json(tree) for tree, _ in forest]):
        for node, below in enumerate(model["below"]):
            rows = [model["row"][leaf] for leaf in below]
            assert rows == list(range(model["first"][node], model["last"][node]))
            assert min(rows) <= model["row"][node] <= max(rows)


def test_why_each_node_begins_is_told(page):
    tree = Tree.from_prompt("p", np.array([1]), 0)
    left, right = add_segment(tree, 0, [1, 2, 3, 4]), add_segment(tree, 0, [2], StopReason.EOS)
    [a, b] = [add_segment(tree, left, [i], StopReason.ANSWER) for i in (5, 6)]
    cut = tree.cut(left, 2)
    again = add_segment(tree, cut, [7], StopReason.LENGTH, from_fallback=True)
    [model] = page.evaluate(MODELS, [tree_json(tree)])
    told = {0: "prompt", cut: "initial fork", right: "initial fork", left: "continued", a: "branching", b: "branching"}
    assert model["origin"] == [(told | {again: "fallback"})[i] for i in range(len(tree.nodes))]


def test_the_components_of_a_leaf_add_up_to_its_advantage_also_after_whitening(page, forest):
    for tree, rewards in forest:
        made = tree_json(tree, "", rewards)
        sums = page.evaluate("t => t.leaves.map((_, i) => treepo.creditOf(t, i).sum)", made)
        assert sums == pytest.approx(made["advantages"])
        whitened = made | {"whitening": {"mean": 0.2, "std": 0.5}}
        results = page.evaluate("t => t.leaves.map((_, i) => treepo.creditOf(t, i).result)", whitened)
        assert results == pytest.approx([(a - 0.2) / 0.5 for a in made["advantages"]])


def test_where_each_node_has_its_own_advantage_its_own_components_are_shown(page):
    """The page of an estimator with an advantage per node showed the components of a leaf."""
    tree = star(2, [3, 4])
    component = {"name": "all leaves", "node": 0, "size": 2, "mean": 0.5, "value": 0.5, "weight": 1}
    per_node = {
        "advantages": None,
        "node_advantages": [0, 0.5, -0.5],
        "components": [[], [component], [component | {"value": -0.5}]],
    }
    made = tree_json(tree, "", np.array([1.0, 0.0])) | per_node
    told = page.evaluate(
        """tree => {
          const shown = { tree, model: treepo.treeModel(tree) };
          const state = node => ({ node, leaf: 1, band: null });
          return [0, 1, 2].map(node => treepo.creditSection(shown, state(node), () => {}).textContent);
        }""",
        made,
    )
    assert "Advantage" not in told[0]
    assert "Advantage of node 1" in told[1]
    assert told[1].endswith("+0.5")
    assert told[2].endswith("\u22120.5")


def shared_by_brute_force(sequences: list[list[int]], min_length: int) -> list[list[bool]]:
    """Which tokens lie in a run of at least so many that another sequence has, or in one that it begins with too."""
    marks = [[False] * len(own) for own in sequences]
    for i, one in enumerate(sequences):
        for j, other in enumerate(sequences):
            if i == j:
                continue
            for start in range(len(one)):
                for from_ in range(len(other)):
                    length = 0
                    while (
                        start + length < len(one)
                        and from_ + length < len(other)
                        and one[start + length] == other[from_ + length]
                    ):
                        length += 1
                    if length >= min_length or (start == from_ == 0):
                        marks[i][start : start + length] = [True] * length
    return marks


def test_what_sequences_share_is_what_brute_force_finds_and_blocks_are_equal_runs(page):
    rng = np.random.default_rng(11)
    cases = []
    for _ in range(60):
        vocab, number = int(rng.integers(1, 5)), int(rng.integers(2, 5))
        sequences = [rng.integers(vocab, size=rng.integers(1, 25)).tolist() for _ in range(number)]
        if rng.random() < 0.5:
            common = rng.integers(vocab, size=6).tolist()
            sequences = [common + own for own in sequences]
        cases.append((sequences, int(rng.integers(1, 6))))
    found = page.evaluate("cases => cases.map(([s, k]) => treepo.sharedBlocks(s, k))", cases)
    for (sequences, min_length), shared in zip(cases, found, strict=True):
        expected = shared_by_brute_force(sequences, min_length)
        for own, parts, marks in zip(sequences, shared["parts"], expected, strict=True):
            assert [p["start"] for p in parts] == [0, *(p["end"] for p in parts[:-1])]
            assert parts[-1]["end"] == len(own)
            assert [p["block"] is not None for p in parts for _ in range(p["start"], p["end"])] == marks
        for block in shared["blocks"]:
            length, places = block["length"], [(p["sequence"], p["start"]) for p in block["occurrences"]]
            assert len({tuple(sequences[s][start : start + length]) for s, start in places}) == 1
            assert len({s for s, _ in places}) >= 2


@pytest.mark.parametrize("vocab", [1, 30])
def test_long_trajectories_are_compared_without_a_quadratic_blow_up(page, vocab):
    """8 of 7,000 tokens, also where every token is the same; each pair has 49 million places to start from."""
    duration = page.evaluate(
        """vocab => {
          let seed = 1;
          const next = () => (seed = (seed * 48271) % 2147483647) % vocab;
          const sequences = Array.from({length: 8}, () => Array.from({length: 7000}, next));
          const start = performance.now();
          treepo.sharedBlocks(sequences, 8);
          return performance.now() - start;
        }""",
        vocab,
    )
    assert duration < 5000


def test_tokens_without_a_text_are_no_run_that_trajectories_share(page):
    """Where texts are not divided into tokens a node's first token has its text and the others none."""
    sequences = page.evaluate("treepo.comparable([[1, 0, 0, 0], [2, 0, 0, 0], [1, 0, 0, 0]], ['', 'x', 'y'])")
    assert sequences[0] == sequences[2]
    assert not set(sequences[0]) & set(sequences[1])


def test_a_match_is_found_across_the_border_of_segments_and_in_any_case(page):
    tree = Tree.from_prompt("p", np.array([0]), 0)
    upper = add_segment(tree, 0, [0, 1])
    lower = add_segment(tree, upper, [2, 3], StopReason.EOS)
    other = add_segment(tree, upper, [4], StopReason.EOS)
    search = "([t, q]) => [...treepo.searchTree(treepo.treeModel(t), [...'abcdİ'], q)]"
    assert page.evaluate(search, [tree_json(tree), "BC"]) == [[lower, 1]]
    assert page.evaluate(search, [tree_json(tree), "bİ"]) == [[other, 1]]
    assert page.evaluate(search, [tree_json(tree), "Prompt"]) == [[0, 1]]
    assert page.evaluate("[...treepo.piecesHit([...'xabcabx'].map(text => ({text})), 'ab')]") == [1, 2, 4, 5]


def test_a_part_of_a_long_text_cuts_no_character(page):
    """Half of a surrogate pair would be shown as an escape."""
    shown = page.evaluate(
        """() => {
          const box = document.createElement("div");
          treepo.showText(box, "x" + "\\u{1f600}".repeat(30000));
          while (box.querySelector(".more")) box.querySelector(".more").click();
          return box.textContent;
        }"""
    )
    assert shown == "x" + "\U0001f600" * 30000


def test_the_vendored_library_is_the_one_that_is_named(page):
    folder = Path(__file__).parents[2] / "treepo" / "report" / "page" / "static" / "vendor"
    assert f"version | {page.evaluate('d3.version')} " in (folder / "README.md").read_text("utf-8")
