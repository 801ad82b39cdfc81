"""Curves, figures and settings of a report, in a real browser: what a reader sees is what the payload says."""

import copy
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from tests.report.browser import browser, open_page
from tests.report.curves_page import FIND, chart, measured, payload_json, run_json
from treepo.report.page.report import page_html

__all__ = ["browser"]

HOSTILE = '<b>b</b><img src="https://example.org/x" onerror="alert(1)"> &amp; %{y}\u202e'
SHOWN = HOSTILE.replace("\u202e", "\\u202e")
RUNS = [run_json("first", 1, 30), run_json(HOSTILE, 2, 20, **{"tree.width": 16, "loss.use": "<script>GSPO"})]
CHARTS = [
    {
        "id": "grid",
        "title": "Grid",
        "note": "A note.",
        "kind": "heatmap",
        "x": {"title": "segment", "log": False, "values": [64, 128]},
        "y": {"title": "depth", "log": False, "values": [7, 14]},
        "z": [[1.5, 2.25], [3.5, None]],
        "z_title": "rate",
    },
    {
        "id": "cost",
        "title": "Cost <u>",
        "note": "",
        "kind": "scatter",
        "x": {"title": "tokens", "log": True},
        "y": {"title": "right", "log": False},
        "series": [
            {"name": HOSTILE, "x": [10, 1000], "y": [0.5, 0.75], "low": [0.25, 0.5], "high": [0.625, 1.0], "text": None}
        ],
    },
]


RESET = """payload => {
  const pressed = "[aria-pressed=false], html[data-theme=dark] #top > button";
  document.querySelectorAll(pressed).forEach(button => button.click());
  [...document.querySelectorAll(".tools button:not([hidden])")].forEach(button => button.click());
  treepo.shell.update(payload);
  scrollTo(0, 0);
}"""

# One figure is drawn in a frame; one that is drawn again while it is dragged on forgets that.
SETTLE = "async () => { for (let i = 0; i < 12; i += 1) await new Promise(requestAnimationFrame); }"


def write(folder: Path, runs, charts=CHARTS) -> Path:
    path = folder / "page.html"
    path.write_text(page_html(payload_json(runs, charts)), "utf-8")
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("curves"), RUNS)


@pytest.fixture(scope="module")
def opened(browser, path):
    errors: list[str] = []
    page = open_page(browser, path, errors, color_scheme="light")
    yield page
    page.close()
    assert errors == []


@pytest.fixture
def page(opened):
    """The page as it is when it is opened. Opening it costs a second, and what the reader chose can be undone."""
    opened.keyboard.press("Escape")
    opened.get_by_role("tab", name="Settings").click()
    opened.get_by_label("find a setting").fill("")
    opened.get_by_label("only differences").uncheck()
    opened.get_by_role("tab", name="Curves").click()
    opened.get_by_label("find a metric").fill("")
    opened.get_by_label("smoothing").fill("0")
    opened.get_by_label("against").select_option("step")
    opened.get_by_label("zoom all together").check()
    opened.evaluate(RESET, payload_json(RUNS, CHARTS))
    return opened


def names(drawn) -> list[str]:
    return [trace["name"] for trace in drawn["traces"]]


def drag(page, title: str, start: float, end: float) -> None:
    """Across the middle of a chart, from one share of its width to another."""
    page.evaluate(SETTLE)
    box = page.evaluate(f"title => ({FIND})(title).querySelector('.nsewdrag').getBoundingClientRect().toJSON()", title)
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + (start + end) / 2 * box["width"], y + 2)
    page.mouse.move(box["x"] + end * box["width"], y + 2)
    page.mouse.up()


def test_runs_are_overlaid_and_points_bridge_what_was_not_measured(page):
    reward, held_out = chart(page, "Reward"), chart(page, "Held-out accuracy")
    for k, run in enumerate(RUNS):
        assert (reward["traces"][k]["x"], reward["traces"][k]["y"]) == measured(run, "reward/mean", run["steps"])
        assert (held_out["traces"][k]["x"], held_out["traces"][k]["y"]) == measured(run, "eval/avg", run["steps"])
    assert [trace["mode"] for trace in held_out["traces"]] == ["lines+markers"] * 2
    assert [trace["mode"] for trace in reward["traces"]] == ["lines"] * 2
    assert len({trace["color"] for trace in reward["traces"]}) == 2


def test_every_metric_that_was_measured_is_in_some_chart(page):
    hints = page.locator(".card h3").evaluate_all("all => all.flatMap(each => each.title.split(', '))")
    assert sorted(hints) == sorted(set(RUNS[0]["metrics"]) - {"never/measured"})


def test_axes_are_steps_tokens_decoded_so_far_and_time(page):
    chart(page, "Reward")
    for axis, of_run in (
        ("tokens", lambda run: run["so_far"]["tokens"]),
        ("time", lambda run: [seconds / 60 for seconds in run["so_far"]["seconds"]]),
        ("step", lambda run: run["steps"]),
    ):
        page.get_by_label("against").select_option(axis)
        for title, metric in (("Reward", "reward/mean"), ("Held-out accuracy", "eval/avg")):
            expected = [measured(run, metric, of_run(run))[0] for run in RUNS]
            chart(
                page,
                title,
                lambda drawn, e=expected: [t["x"] for t in drawn["traces"]] == [pytest.approx(x) for x in e],
            )


def test_a_hidden_run_is_gone_everywhere_and_the_others_keep_their_colours(page):
    second = chart(page, "Reward")["traces"][1]
    chart(page, "Gradient norm")
    page.get_by_role("button", name="first").click()
    for title in ("Reward", "Gradient norm"):
        left = chart(page, title, lambda drawn: len(drawn["traces"]) == 1)["traces"][0]
        assert (left["name"], left["color"]) == (second["name"], second["color"])
    page.get_by_role("tab", name="Settings").click()
    assert page.locator("#settings thead").first.inner_text().strip() == SHOWN
    page.get_by_role("button", name="first").click()
    assert page.locator("#settings thead th").all_inner_texts()[:3] == ["", "first", SHOWN]


def test_smoothing_is_an_unbiased_moving_average_over_the_values_themselves(page):
    page.get_by_label("smoothing").fill("0.8")
    drawn = chart(page, "Reward", lambda drawn: len(drawn["traces"]) == 4)
    _, values = measured(RUNS[0], "reward/mean", RUNS[0]["steps"])
    weights = np.array([[0.8 ** (t - s) if s <= t else 0 for s in range(len(values))] for t in range(len(values))])
    assert drawn["traces"][0]["y"] == values
    assert drawn["traces"][1]["y"] == pytest.approx((weights @ values / weights.sum(1)).tolist())
    # Of evaluations, each point counts.
    assert len(chart(page, "Held-out accuracy")["traces"]) == 2


def test_a_zoom_holds_for_all_charts_and_survives_themes_and_new_data(page):
    before = chart(page, "Reward")
    drag(page, "Reward", 0.25, 0.5)
    zoomed = chart(page, "Reward", lambda drawn: drawn["x"] != before["x"])
    low, high = before["x"]
    assert zoomed["x"] == pytest.approx([low + (high - low) / 4, low + (high - low) / 2], abs=0.5)
    chart(page, "Gradient norm", lambda drawn: drawn["x"] == zoomed["x"])
    page.get_by_role("button", name="dark page").click()
    dark = chart(page, "Reward", lambda drawn: drawn["ground"] != before["ground"])
    assert dark["x"] == zoomed["x"] and dark["traces"][0]["color"] != before["traces"][0]["color"]
    page.evaluate("payload => treepo.shell.update(payload)", payload_json([RUNS[0], run_json(HOSTILE, 2, 29)], []))
    longer = chart(page, "Reward", lambda drawn: len(drawn["traces"][1]["x"]) == 29)
    assert longer["x"] == zoomed["x"]
    page.get_by_role("button", name="show everything").click()
    chart(page, "Gradient norm", lambda drawn: drawn["x"] == pytest.approx(before["x"], abs=0.5))


def test_zooms_that_are_not_linked_stay_where_they_are(page):
    before, other = chart(page, "Reward"), chart(page, "Held-out accuracy")
    page.get_by_label("zoom all together").uncheck()
    drag(page, "Reward", 0.25, 0.5)
    chart(page, "Reward", lambda drawn: abs(drawn["x"][0] - before["x"][0]) > 3)
    page.evaluate(SETTLE)
    # Room for marks beside the points is in pixels, of which there are fewer once the numbers of the axis are measured.
    chart(page, "Held-out accuracy", lambda drawn: drawn["x"] == pytest.approx(other["x"], abs=0.5))


def test_parts_are_those_of_the_run_that_is_chosen(page):
    for k, run in enumerate(RUNS):
        page.locator(".card", has_text="Phases of a step").get_by_label("run").select_option(str(run["name"]))
        expected = [measured(run, f"time/{name}_s", run["steps"])[1] for name in ("grow", "update")]
        drawn = chart(page, "Phases of a step", lambda drawn, e=expected: [t["y"] for t in drawn["traces"]] == e)
        assert names(drawn) == ["grow", "update"], k
        assert {trace["stackgroup"] for trace in drawn["traces"]} == {"all"}


def test_search_finds_metrics_by_words_of_name_or_title(page):
    page.get_by_label("find a metric").fill("norm grad")
    assert page.locator(".card h3").all_inner_texts() == ["update/grad_norm"]
    page.get_by_label("find a metric").fill("held-out")
    assert page.locator(".card h3").all_inner_texts() == ["eval/avg"]
    page.get_by_label("find a metric").fill("no such thing")
    assert "No metric" in page.locator(".groups").inner_text()


def test_hostile_names_are_text_in_the_page_and_in_figures(page):
    """Plotly reads <b>, <a> and entities in names, and %{...} in what is shown on hovering."""
    chart(page, "Reward")
    assert page.locator(".run").all_inner_texts() == ["first", SHOWN]
    page.locator(".card").first.hover()
    page.locator(".card").first.get_by_role("button", name="enlarge").click()
    page.locator("dialog .legendtext").first.wait_for()
    assert page.locator("dialog .legendtext").evaluate_all("all => all.map(each => each.textContent)") == [
        "first",
        SHOWN[:59] + "…",
    ]
    box = page.locator("dialog .nsewdrag").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
    page.locator("dialog .hoverlayer text").first.wait_for()
    assert SHOWN[:59] in (page.locator("dialog .hoverlayer").text_content() or "")
    page.keyboard.press("Escape")
    chart(page, "my_reward/<i>part</i>")
    page.get_by_role("tab", name="Settings").click()
    assert "<script>GSPO" in page.locator("#settings").inner_text()
    assert page.locator("main b, main i, img, main a").count() == 0


def test_settings_side_by_side_or_only_where_they_differ(page):
    page.get_by_role("tab", name="Settings").click()
    rows = page.locator("#settings section").first.locator("tbody tr")
    assert [r.split("\t") for r in rows.all_inner_texts()] == [
        ["tree.width", "8", "16"],
        ["train.seed", "0", "0"],
        ["loss.use", "\u2013", "<script>GSPO"],
    ]
    page.get_by_label("only differences").check()
    assert [r.split("\t")[0] for r in rows.all_inner_texts()] == ["tree.width", "loss.use"]
    page.get_by_label("find a setting").fill("gspo")
    assert [r.split("\t")[0] for r in rows.all_inner_texts()] == ["loss.use"]


def test_figures_have_their_values_intervals_and_notes(page):
    page.get_by_role("tab", name="Charts").click()
    chart(page, "Cost <u>")
    cost = page.evaluate(f"({FIND})('Cost <u>')._fullLayout.xaxis.type")
    bars = page.evaluate(f"(({{array, arrayminus}}) => [array, arrayminus])(({FIND})('Cost <u>').data[0].error_y)")
    assert (cost, bars) == ("log", [[0.125, 0.25], [0.25, 0.25]])
    chart(page, "Grid")
    cells = page.locator("#charts .heatmap-label").all_text_contents()
    assert sorted(cells) == ["1.5", "2.25", "3.5"]
    assert page.locator("#charts .note").all_inner_texts() == ["A note."]


def test_a_saved_figure_has_the_data_on_white_also_from_a_dark_page(page):
    page.get_by_role("button", name="dark page").click()
    chart(page, "Reward")
    card = page.locator(".card").filter(has=page.locator("h3:text-is('Reward')"))
    card.hover()
    card.get_by_role("button", name="save").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save", exact=True).click()
    assert download.value.suggested_filename == "Reward.svg"
    root = ET.parse(download.value.path()).getroot()
    svg = "{http://www.w3.org/2000/svg}"
    assert float(root.attrib["width"]) == round(89 / 25.4 * 96)
    assert "fill: rgb(255, 255, 255)" in root.findall(f".//{svg}rect")[0].attrib["style"]
    lines = [
        p.attrib["d"] for p in root.iter(f"{svg}path") if p.attrib.get("class") == "js-line" and "L" in p.attrib["d"]
    ]
    for run, line in zip(RUNS, lines, strict=True):
        points = np.array(re.findall(r"[ML]?(-?[\d.]+),(-?[\d.]+)", line), dtype=float)
        x, y = measured(run, "reward/mean", run["steps"])
        steps = np.interp(points[:, 0], points[[0, -1], 0], (x[0], x[-1]))
        # Plotly leaves out points that lie on the line between their neighbours.
        assert len(steps) >= 0.8 * len(x) and np.abs(steps - steps.round()).max() < 0.01
        values = np.array(y)[steps.round().astype(int) - x[0]]
        slope, start = np.polyfit(values, points[:, 1], 1)
        assert slope < 0 and np.abs(slope * values + start - points[:, 1]).max() < 0.02


def test_a_drawing_of_the_page_is_saved_with_the_styles_it_has_there(page):
    text = page.evaluate(
        """() => {
          const style = document.createElement('style');
          style.textContent = '.mark { fill: rgb(1, 2, 3); }';
          document.head.append(style);
          const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
          svg.setAttribute('viewBox', '0 0 40 20');
          const mark = document.createElementNS(svg.namespaceURI, 'circle');
          mark.setAttribute('class', 'mark');
          svg.append(mark);
          document.body.append(svg);
          return treepo.export.svgText(svg);
        }"""
    )
    root = ET.fromstring(text)
    assert (root.attrib["width"], root.attrib["height"]) == ("40", "20")
    assert "fill: rgb(1, 2, 3)" in root[-1].attrib["style"]


def test_a_phone_has_no_sideways_scroll_and_scrolls_on_figures(browser, path):
    errors: list[str] = []
    options = {"viewport": {"width": 390, "height": 800}, "is_mobile": True, "has_touch": True}
    page = open_page(browser, path, errors, **options)
    chart(page, "Reward")
    for tab in ("Curves", "Charts", "Settings"):
        page.get_by_role("tab", name=tab).tap()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert (
        page.evaluate(f"(document.querySelector('#tab-curves').click(), ({FIND})('Reward').layout.dragmode)") is False
    )
    page.close()
    assert errors == []


def test_a_packed_payload_of_one_run_with_nothing_else(browser, tmp_path):
    """200 kB of metrics are read from their gzip; without figures there is no tab of them; keys move between tabs."""
    run = copy.deepcopy(RUNS[0])
    run["environment"] = {"a": "x" * 250_000}
    errors: list[str] = []
    page = open_page(browser, write(tmp_path, [run], []), errors)
    chart(page, "Reward")
    assert page.get_by_role("tab").all_inner_texts() == ["Curves", "Settings"]
    page.get_by_role("tab", name="Curves").press("ArrowRight")
    assert page.get_by_role("tab", name="Settings").get_attribute("aria-selected") == "true"
    assert page.locator("#settings").is_visible() and not page.locator("#curves").is_visible()
    page.close()
    assert errors == []


def test_a_live_page_brings_itself_up_to_date_and_says_when_it_cannot(browser):
    errors: list[str] = []
    page = browser.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    html = page_html(payload_json([RUNS[1]], []), is_live=True)
    answers = [(200, payload_json([run_json("first", 1, 40)], [])), (500, {})]
    page.clock.install()
    page.route("http://report.test/", lambda route: route.fulfill(body=html, content_type="text/html; charset=utf-8"))

    def answer(route):
        status, payload = answers.pop(0)
        route.fulfill(status=status, json=payload)

    page.route("http://report.test/payload", answer)
    page.goto("http://report.test/")
    page.get_by_role("button", name="first").wait_for()
    assert page.locator(".run").all_inner_texts() == ["first"]
    page.clock.run_for(4000)
    page.get_by_text("not up to date").wait_for()
    page.close()
    assert errors == []
