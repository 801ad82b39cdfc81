"""The tree explorer in a real browser: what it computes, what it shows, and that untrusted text stays text."""

from pathlib import Path

import numpy as np
import pytest

from tests.report.browser import browser, open_page
from tests.report.explorer_page import explorer_page, payload_of, tree_json
from tests.trees import add_segment, random_tree, star
from treepo.tree import StopReason, Tree

__all__ = ["browser"]

LETTERS = list("abcdefgh")

MODELS = """trees => trees.map(tree => {
  const model = treepo.treeModel(tree);
  const below = [...Array(model.size).keys()].map(i => treepo.leavesBelow(model, i));
  return {...model, below, sharing: treepo.sharing(tree), place: null};
})"""


@pytest.fixture(scope="module")
def forest():
    """Random trees with splits and fallbacks, and rewards of their leaves."""
    rng = np.random.default_rng(5)
    trees = [random_tree(rng, num_leaves) for num_leaves in (1, 2, 3, 5, 8, 13, 21)]
    return [(tree, rng.normal(size=len(tree.leaves()))) for tree in trees]


@pytest.fixture(scope="module")
def page(browser, forest, tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    trees = [tree_json(tree, f"prompt {i}", rewards) for i, (tree, rewards) in enumerate(forest)]
    path.write_text(explorer_page(payload_of(trees, LETTERS)), "utf-8")
    errors: list[str] = []
    yield open_page(browser, path, errors)
    assert errors == []


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
    tree = Tree.planted("p", np.array([1]), 0)
    left, right = add_segment(tree, 0, [1, 2, 3, 4]), add_segment(tree, 0, [2], StopReason.EOS)
    [a, b] = [add_segment(tree, left, [i], StopReason.ANSWER) for i in (5, 6)]
    cut = tree.cut(left, 2)
    again = add_segment(tree, cut, [7], StopReason.LENGTH, resumed=True)
    [model] = page.evaluate(MODELS, [tree_json(tree)])
    told = {0: "prompt", cut: "initial fork", right: "initial fork", left: "continued", a: "branching", b: "branching"}
    assert model["origin"] == [(told | {again: "fallback"})[i] for i in range(len(tree.nodes))]


def test_the_terms_of_a_leaf_add_up_to_its_advantage_also_after_whitening(page, forest):
    for tree, rewards in forest:
        made = tree_json(tree, "", rewards)
        sums = page.evaluate("t => t.leaves.map((_, i) => treepo.creditOf(t, i).sum)", made)
        assert sums == pytest.approx(made["advantages"])
        whitened = made | {"whitening": {"mean": 0.2, "std": 0.5}}
        results = page.evaluate("t => t.leaves.map((_, i) => treepo.creditOf(t, i).result)", whitened)
        assert results == pytest.approx([(a - 0.2) / 0.5 for a in made["advantages"]])


def test_where_each_node_has_its_own_advantage_its_own_terms_are_shown(page):
    """The page of an estimator with an advantage per node told the terms of a leaf."""
    tree = star(2, [3, 4])
    term = {"name": "all leaves", "node": 0, "size": 2, "mean": 0.5, "value": 0.5, "weight": 1}
    per_node = {"advantages": None, "node_advantages": [0, 0.5, -0.5], "terms": [[], [term], [term | {"value": -0.5}]]}
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
    tree = Tree.planted("p", np.array([0]), 0)
    upper = add_segment(tree, 0, [0, 1])
    lower = add_segment(tree, upper, [2, 3], StopReason.EOS)
    other = add_segment(tree, upper, [4], StopReason.EOS)
    search = "([t, q]) => [...treepo.searchTree(treepo.treeModel(t), [...'abcdİ'], q)]"
    assert page.evaluate(search, [tree_json(tree), "BC"]) == [[lower, 1]]
    assert page.evaluate(search, [tree_json(tree), "bİ"]) == [[other, 1]]
    assert page.evaluate(search, [tree_json(tree), "Prompt"]) == [[0, 1]]
    assert page.evaluate("[...treepo.piecesHit([...'xabcabx'].map(text => ({text})), 'ab')]") == [1, 2, 4, 5]


def test_a_view_has_an_address_that_leads_back_to_it(page):
    page.evaluate("location.hash = '#trees?run=run&step=7&tree=4&node=0'")
    page.click("svg.tree .bars rect >> nth=2")
    chosen = page.inner_text(".panel-body h3")
    address = page.evaluate("location.hash")
    page.evaluate("location.hash = '#trees?run=run&step=7&tree=2&node=0'")
    page.wait_for_function("document.querySelector('.problems [aria-current]').dataset.tree === '2'")
    page.evaluate("address => (location.hash = address)", address)
    page.wait_for_function("text => document.querySelector('.panel-body h3').textContent === text", arg=chosen)
    assert page.get_attribute(".problems [aria-current]", "data-tree") == "4"
    page.evaluate("location.hash = '#trees?run=none&step=1&tree=99&node=x&view=no&leaves=1.1'")
    page.wait_for_function("document.querySelector('.problems [aria-current]')")


def test_new_data_leaves_what_is_looked_at_where_it_is(page):
    page.evaluate("location.hash = '#trees?run=run&step=7&tree=5&node=3'")
    page.wait_for_function("document.querySelector('.panel-body h3').textContent === 'Node 3'")
    page.evaluate("document.querySelector('.panel-body h3').dataset.kept = '1'")
    page.evaluate(
        """() => {
          const later = structuredClone(payload);
          later.runs[0].trees.steps.push({...later.runs[0].trees.steps[1], step: 11});
          mounted.update(later);
        }"""
    )
    assert page.get_attribute(".panel-body h3", "data-kept") == "1"
    assert page.locator(".explorer-toolbar option[value='11']").count() == 1
    page.evaluate("mounted.update({...payload, runs: []})")
    assert not page.is_visible("svg.tree")
    page.evaluate("mounted.update(payload)")
    assert page.is_visible("svg.tree")


def test_a_term_brings_out_its_group_and_keys_go_through_the_tree(page, forest):
    tree, _ = forest[5]
    leaf = max(tree.leaves(), key=lambda i: len(tree.path(i)))
    page.evaluate("leaf => (location.hash = `#trees?run=run&step=7&tree=5&node=${leaf}`)", leaf)
    page.wait_for_function("leaf => document.querySelector('.panel-body h3').textContent === `Node ${leaf}`", arg=leaf)
    page.click(".terms button >> nth=0")
    assert page.locator(".terms tr.chosen").count() == 1
    assert page.locator("svg.tree .band rect").count() == 1
    page.focus("svg.tree")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text(".panel-body h3") == f"Node {tree.nodes[leaf].parent}"
    page.keyboard.press("n")
    assert page.get_attribute(".problems [aria-current]", "data-tree") == "6"


def test_from_a_leaf_one_gets_to_the_others_of_its_group(page, forest):
    """A click on another leaf of the group did nothing while a leaf was chosen."""
    tree, _ = forest[5]
    leaf = tree.leaves()[0]
    page.evaluate("leaf => (location.hash = `#trees?run=run&step=7&tree=5&node=${leaf}`)", leaf)
    page.wait_for_function("leaf => document.querySelector('.panel-body h3').textContent === `Node ${leaf}`", arg=leaf)
    other = page.locator(".credit .chip[aria-pressed='false']").first
    name = other.inner_text().split(" ")[0]
    other.click()
    assert page.inner_text(".panel-body h3") == f"Node {name}"
    assert page.inner_text(".credit .chip[aria-pressed='true']").split(" ")[0] == name


HOSTILE = [
    "<script>window.pwned = 1</script>",
    '</script><img src=x onerror="window.pwned = 1">',
    "\"'><svg onload=window.pwned=1>&amp;&lt;b&gt;",
    "a\u202egnp.exe\u2066\u200f",
    "\x00\x1b[31m\x07",
    "line\r\n\ttab",
    "\ud800lone",
    "אבג ابجد",
]
ESCAPED = [
    *HOSTILE[:3],
    "a\\u202egnp.exe\\u2066\\u200f",
    "\\x00\\x1b[31m\\x07",
    "line\\x0d\n\ttab",
    "\\ud800lone",
    "אבג ابجد",
]


@pytest.fixture(scope="module")
def hostile_page(browser, tmp_path_factory):
    """A tree of hostile tokens, with such a prompt and problem; node 2 has a token of 3 MB, node 3 no stop reason."""
    tree = star(2, [len(HOSTILE), 1])
    tree.nodes[1].token_ids[:] = range(len(HOSTILE))
    tree.nodes[2].token_ids[:] = len(HOSTILE)
    add_segment(tree, 0, [0])
    made = tree_json(tree, "".join(HOSTILE)) | {"problem": HOSTILE[1], "estimator": HOSTILE[0]}
    path = tmp_path_factory.mktemp("hostile") / "page.html"
    path.write_text(explorer_page(payload_of([made], [*HOSTILE, "<b>" + "x" * 3_000_000])), "utf-8")
    errors: list[str] = []
    yield open_page(browser, path, errors)
    assert errors == []


def test_hostile_text_is_shown_as_text_and_runs_nothing(hostile_page):
    page = hostile_page
    for view in ("node=0", "node=1", "node=1&tab=trajectory", "node=3&tab=trajectory", "view=compare&leaves=1.2"):
        page.evaluate("view => (location.hash = `#trees?run=run&step=7&tree=0&${view}`)", view)
        page.wait_for_timeout(30)
        assert page.locator("#trees script, #trees img, #trees b, #trees iframe, #trees svg svg").count() == 0
    page.evaluate("location.hash = '#trees?run=run&step=7&tree=0&node=1&tab=segment&view=tree'")
    page.wait_for_function("document.querySelector('.panel-body h3').textContent === 'Node 1'")
    spans = page.locator(".panel-body .text > span")
    assert [spans.nth(i).text_content() for i in range(spans.count())] == ESCAPED
    page.hover(".panel-body .text > span >> nth=1")
    assert HOSTILE[1] in page.text_content(".tip")
    page.evaluate("location.hash = '#trees?run=run&step=7&tree=0&node=0'")
    page.wait_for_function("document.querySelector('.panel-body h3').textContent === 'Prompt'")
    assert page.text_content(".panel-body .text") == "".join(ESCAPED)
    assert page.evaluate("window.pwned") is None


def test_a_text_of_megabytes_is_shown_in_parts(hostile_page):
    page = hostile_page
    page.evaluate("location.hash = '#trees?run=run&step=7&tree=0&node=2'")
    page.wait_for_function("document.querySelector('.panel-body h3').textContent === 'Node 2'")
    size = "document.querySelector('.panel-body .text').textContent.length"
    first = page.evaluate(size)
    assert 10_000 < first < 100_000
    page.click(".panel-body .more")
    assert first + 10_000 < page.evaluate(size) < 200_000


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


def test_a_narrow_window_holds_everything(hostile_page):
    page = hostile_page
    page.set_viewport_size({"width": 390, "height": 800})
    for view in ("view=tree&node=1", "view=tree&node=1&tab=trajectory", "view=compare"):
        page.evaluate("view => (location.hash = `#trees?run=run&step=7&tree=0&${view}`)", view)
        page.wait_for_timeout(30)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_drawing_is_to_scale_and_zooms(page, forest):
    """x grows with tokens alone."""
    page.evaluate("location.hash = '#trees?run=run&step=7&tree=6&node=0'")
    page.wait_for_function("document.querySelector('.problems [aria-current]').dataset.tree === '6'")
    tree, _ = forest[6]
    read = "[...document.querySelectorAll('svg.tree .bars rect')].map(r => [+r.dataset.node, +r.getAttribute('x')])"
    drawn = page.evaluate(read)
    starts = {i: tree.response_len(tree.nodes[i].parent) for i, _ in drawn}
    slope, zero = np.polyfit([starts[i] for i, _ in drawn], [x for _, x in drawn], 1)
    assert [x for _, x in drawn] == pytest.approx([zero + slope * starts[i] for i, _ in drawn], abs=1e-6)
    assert len(drawn) == len(tree.nodes) - 1
    page.click(".zoom button:nth-child(2)")
    page.wait_for_function(
        f"{read}.some(([i, x]) => i === {drawn[-1][0]} && x !== {drawn[-1][1]}) || {read}.length < {len(drawn)}"
    )
    page.click(".zoom button:nth-child(3)")
    page.wait_for_function(f"{read}.length === {len(drawn)}")


def test_the_vendored_library_is_the_one_that_is_named(page):
    folder = Path(__file__).parents[2] / "treepo" / "report" / "page" / "static" / "vendor"
    assert f"version | {page.evaluate('d3.version')} " in (folder / "README.md").read_text("utf-8")
