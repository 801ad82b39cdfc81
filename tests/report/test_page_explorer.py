"""The tree explorer in a real browser: what it shows, where it leads, and that untrusted text stays text."""

import numpy as np
import pytest

from tests.report.browser import browser, open_page
from tests.report.explorer_page import explorer_page, forest, page, payload_of, tree_json
from tests.trees import add_segment, star
from treepo.report.page.report import page_html

__all__ = ["browser", "forest", "page"]


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
    page.click(".components button >> nth=0")
    assert page.locator(".components tr.chosen").count() == 1
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


def test_the_whole_page_shows_hostile_names_and_texts_and_runs_nothing(browser, tmp_path):
    """Title, run, settings, note and figures too, under the page's own policy, whose violations are errors."""
    text = "".join(HOSTILE)
    tree = star(2, [len(HOSTILE), 1])
    tree.nodes[1].token_ids[:] = range(len(HOSTILE))
    payload = payload_of([tree_json(tree, text) | {"problem": text}], HOSTILE)
    named = {"name": text, "settings": {text: text}, "environment": {text: text}, "note": text}
    series = {"steps": [1, 2], "so_far": {"tokens": [1, 2], "seconds": [1, 2]}}
    payload["runs"][0] |= named | series | {"metrics": {"reward/mean": [0.1, 0.2], text: [1, 2]}}
    path, errors = tmp_path / "report.html", []
    path.write_text(page_html(payload | {"title": text, "treepo": "0", "written": "2026-01-01T00:00:00"}), "utf-8")
    page = open_page(browser, path, errors)
    for tab in ("trees", "settings", "curves"):
        page.click(f"#tab-{tab}")
    page.click("#tab-trees")
    page.click("svg.tree .bars rect >> nth=0")
    assert page.text_content(".panel-body .text") == "".join(ESCAPED)
    assert page.evaluate("window.pwned") is None
    assert page.locator("body img, body iframe, body object").count() == 0
    assert errors == []


def test_a_text_of_megabytes_is_shown_in_parts(hostile_page):
    page = hostile_page
    page.evaluate("location.hash = '#trees?run=run&step=7&tree=0&node=2'")
    page.wait_for_function("document.querySelector('.panel-body h3').textContent === 'Node 2'")
    size = "document.querySelector('.panel-body .text').textContent.length"
    first = page.evaluate(size)
    assert 10_000 < first < 100_000
    page.click(".panel-body .more")
    assert first + 10_000 < page.evaluate(size) < 200_000


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
