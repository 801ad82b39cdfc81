"""What the report's page says of its numbers, trees and tabs, in a real browser: each test is of a bug it once had."""

import numpy as np
import pytest

from tests.report.browser import browser, open_page
from tests.report.curves_page import chart, payload_json, run_json
from tests.report.explorer_page import LETTERS, STATIC, tree_json
from tests.trees import star
from treepo.report.page.report import page_html

__all__ = ["browser"]

SPEED = {
    "id": "speed",
    "title": "Speed",
    "note": "grid.json; " + "a long command " * 10,
    "kind": "heatmap",
    "x": {"title": "segment", "log": False, "values": [64, 128]},
    "y": {"title": "depth", "log": False, "values": [7]},
    "z": [[1.25, 1900]],
    "z_title": "rate",
}
COST = {
    "id": "cost",
    "title": "Cost",
    "note": "",
    "kind": "scatter",
    "x": {"title": "tokens", "log": False},
    "y": {"title": "accuracy", "log": False, "percent": True},
    "series": [
        {"name": name, "x": [10, 20], "y": [0.5, 0.75], "low": None, "high": None, "text": ["avg@k", "maj@k"]}
        for name in ("d1", "d2")
    ],
}

VOTES = {
    "id": "votes",
    "title": "Votes",
    "note": "",
    "kind": "scatter",
    "x": {"title": "k", "log": True},
    "y": {"title": "maj@k", "log": False},
    "series": [{"name": "r", "x": [1, 8, 9], "y": [0.5, 0.6, 0.7], "low": None, "high": None, "text": None}],
}

FIGURE = """(title) => {
  const run = { ...treepo.shell.payload.runs[0] };
  const charts = treepo.charts.groups(Object.keys(run.metrics)).flatMap((group) => group.charts);
  const chart = charts.find((own) => own.title === title);
  const view = { x: new Map([[run, run.steps]]), smoothing: 0, hover: "", own: treepo.series.AXES.tokens.own() };
  const frame = { palette: treepo.plot.palette(document.body), isTitled: false };
  const { data, layout } = treepo.metricFigure(chart, [run], view, treepo.graph.FREE, frame);
  return [data.map((trace) => trace.hovertemplate), layout.yaxis.ticksuffix, layout.yaxis.rangemode];
}"""


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """Two runs; the first has a tree without a signal and one with."""
    run = run_json("first", 1, 5)
    steps = len(run["steps"])
    run["metrics"] |= {"memory/peak_bytes": [7e8] * steps, "update/num_oom": [0] * steps}
    run["metrics"] |= {"time/entropies_s": [1.0] * steps, "time/wait_s": [1.0] * steps}
    flat = tree_json(star(2), "flat", np.array([1.0, 1.0])) | {"advantages": None, "terms": None}
    split = tree_json(star(2, [2, 1]), "split", np.array([1.0, 0.0]))
    split["logprobs"] = [-0.5, -0.737, -0.5]
    trees = [flat, split]
    run["trees"] = {"pieces": LETTERS, "steps": [{"step": 5, "trees": trees}]}
    path, errors = tmp_path_factory.mktemp("words") / "page.html", []
    path.write_text(page_html(payload_json([run, run_json("second", 2, 5)], [SPEED, COST, VOTES])), "utf-8")
    yield open_page(browser, path, errors)
    assert errors == []


def test_seconds_and_bytes_have_their_unit_at_each_number(page):
    """0.545 s was shown as 545m, which reads as minutes, and memory as 737M."""
    hover, suffix, _ = page.evaluate(FIGURE, "Peak of memory")
    assert hover[0].startswith("%{y:.3s}B") and suffix == "B"
    hover, suffix, _ = page.evaluate(FIGURE, "Phases of a step")
    assert set(hover) == {"%{y:.3~g} s"} and suffix == " s"
    assert chart(page, "Phases of a step")["traces"][0]["y"]
    card = page.locator(".card", has_text="Phases of a step")
    assert card.locator(".unit").inner_text() == "s"


def test_the_phases_of_a_step_are_all_there(page):
    """Entropies and waiting for other processes were left out, so that the stack was lower than the step."""
    names = [trace["name"] for trace in chart(page, "Phases of a step")["traces"]]
    assert names == ["grow", "wait", "entropies", "update"]


def test_each_line_tells_its_own_place_on_an_axis_of_tokens(page):
    """Hovering gave the nearest value of each run under the x of one of them."""
    hover, _, _ = page.evaluate(FIGURE, "Gradient norm")
    assert hover == ["%{y:.4~g} at %{x:.4s} tokens"]


@pytest.mark.parametrize(
    ("title", "mode"),
    [("Phases of a step", "tozero"), ("Tokens decoded", "tozero"), ("Reward", "normal")],
)
def test_stacks_and_counts_begin_at_zero(page, title, mode):
    """Nothing noticed when they did not."""
    assert page.evaluate(FIGURE, title)[2] == mode


def test_a_metric_that_is_always_zero_has_no_axis_below_zero(page):
    """It filled its card from -1 to 1."""
    low, high = chart(page, "Times that memory ran out")["y"]
    assert low >= -0.1 and high > 0


def test_cells_go_from_little_to_much_unless_their_values_have_a_middle(page):
    """1.27 times as fast was as blue as 0.87 times, with the middle of the colours half way; 1900 was 1.9e+3."""
    page.click("#tab-charts")
    read = """() => { const { data } = [...document.querySelectorAll('#charts .graph')][0];
      return [data[0].colorscale.length, data[0].zmid ?? null, data[0].text]; }"""
    chart(page, "Speed")
    assert page.evaluate(read) == [2, None, [["1.25", "1.9k"]]]
    middle = SPEED | {"z_mid": 1.0}
    page.evaluate("charts => treepo.shell.update({...treepo.shell.payload, charts})", [middle, COST, VOTES])
    for _ in range(200):
        if page.evaluate(read)[1] == 1.0:
            break
        page.wait_for_timeout(20)
    assert page.evaluate(read)[:2] == [3, 1.0]


def test_points_of_results_have_their_names_beside_them(page):
    """They were said on hovering alone, so that a saved figure told nothing. Colours are results, symbols measures."""
    page.click("#tab-charts")
    chart(page, "Cost")
    drawn = page.evaluate(
        """() => [...document.querySelectorAll('#charts .graph')][1].data.map(
          ({ mode, text, marker, name }) => ({ mode, text, color: marker.color, symbol: marker.symbol, name }))"""
    )
    measures = ["avg@k", "maj@k"]
    assert [(p["name"], p["mode"], p["text"]) for p in drawn] == [
        ("d1", "markers+text", measures),
        ("d2", "markers", measures),
    ]
    assert drawn[0]["color"] != drawn[1]["color"]
    assert drawn[0]["symbol"] == drawn[1]["symbol"] and len(set(drawn[0]["symbol"])) == 2
    assert page.locator("#charts summary").inner_text() == "grid.json"


def test_the_ticks_of_few_values_are_those_values(page):
    """Along k = 1, 8, 9 they were 9 1 2 ... 8 9."""
    page.click("#tab-charts")
    chart(page, "Votes")
    read = "[...document.querySelectorAll('#charts .graph')][2].layout.xaxis.tickvals"
    assert page.evaluate(read) == [1, 8, 9]


def test_trees_begin_with_one_that_has_a_signal(page):
    """The first thing that was seen was a problem whose answers are all right, of which nothing is learned."""
    page.click("#tab-trees")
    assert page.get_attribute(".problems [aria-current]", "data-tree") == "1"
    assert page.locator(".problems .signal").evaluate_all("all => all.map(each => each.dataset.tree)") == ["1"]
    advantage = page.locator(".panel-body dt:text-is('advantage') + dd")
    assert advantage.inner_text().endswith("(mean below)")


def test_an_address_opens_its_tab_and_a_tab_has_its_address(page):
    """Links to trees did nothing where the curves were shown, and a reload of the curves led to the trees."""
    page.click("#tab-curves")
    assert page.evaluate("location.hash") == "#curves"
    page.evaluate("location.hash = '#trees?run=first&step=5&tree=1&node=1'")
    page.wait_for_selector("#tab-trees[aria-selected=true]")
    page.wait_for_selector(".panel-body h3:text-is('Node 1')")
    page.click("#tab-curves")
    page.click("#tab-trees")
    assert page.evaluate("location.hash").endswith("node=1")


def test_a_mean_of_thousandths_has_two_figures_and_a_token_its_probability(page):
    """The third figure was wrong, since the values of tokens are rounded."""
    page.click("#tab-trees")
    page.evaluate("location.hash = '#trees?run=first&step=5&tree=1&node=1&tab=segment'")
    page.wait_for_selector(".panel-body h3:text-is('Node 1')")
    mean = page.locator(".panel-body dt:text-is('log-probability') + dd")
    assert mean.inner_text() == "\u22120.62 per token"
    page.hover(".panel-body .text > span >> nth=0")
    assert "probability 0.607" in page.locator(".tip").inner_text()


def test_with_all_runs_hidden_the_page_says_so(page):
    """It said that no trees were kept, and that there was nothing to show."""
    for button in page.locator(".run").all():
        button.click()
    page.click("#tab-trees")
    assert "No run with trees is shown" in page.locator("#trees > .note").first.inner_text()
    page.click("#tab-settings")
    assert page.locator("#settings").inner_text().strip().endswith("No run is shown.")
    for button in page.locator(".run").all():
        button.click()


LIVE = """async () => {
  const [waits, states] = [[], []];
  let shown = 0;
  await new Promise((resolve) => {
    globalThis.setTimeout = (go, wait) => { waits.push(wait); waits.length < 8 ? go() : resolve(); };
    globalThis.fetch = async () => {
      if (waits.length < 6) throw new Error("away");
      return { status: 200, ok: true, headers: new Headers({ ETag: "1" }), json: async () => ({}) };
    };
    const show = () => { shown += 1; if (shown === 1) throw new Error("odd"); };
    treepo.live.start(show, (text) => states.push(text));
  });
  return [waits, states];
}"""


def test_a_payload_that_cannot_be_shown_is_told_and_does_not_end_the_following(browser):
    """One that threw ended it without a word; nothing noticed when a server that is away was asked without pause."""
    blank = browser.new_page()
    blank.add_script_tag(content=STATIC.joinpath("live.js").read_text("utf-8"))
    waits, states = blank.evaluate(LIVE)
    blank.close()
    assert waits == [6000, 12000, 24000, 48000, 60000, 60000, 60000, 3000]
    assert states == ["not up to date: away"] * 6 + ["not up to date: odd", ""]
