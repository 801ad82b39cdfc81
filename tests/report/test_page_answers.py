"""How answers were graded, early and late ones, and what differs from the defaults, in a real browser."""

import numpy as np
import pytest

from tests.report.browser import browser, open_page
from tests.report.curves_page import chart, payload_json, run_json
from tests.report.explorer_page import LETTERS, tree_json
from tests.trees import star
from treepo.report.page.report import page_html

__all__ = ["browser"]

HOSTILE = "<img src=x onerror='window.pwned = 1'>\u202e<b>"


def graded(question: str, rewards: list[float], extracted: list[str | None]) -> dict:
    """A tree with one leaf per reward."""
    correct = [float(reward > 0) for reward in rewards]
    grading = {
        "question": question,
        "ground_truth": HOSTILE,
        "extracted": extracted,
        "outcomes": ["no answer" if answer is None else "graded" for answer in extracted],
        "correct": correct,
        "extra": {},
        "parts": {"correct": correct, HOSTILE: [r - c for r, c in zip(rewards, correct, strict=True)]},
    }
    tree = tree_json(star(len(rewards)), "<|im_start|>system\nYou are helpful", np.array(rewards))
    return tree | {"grading": grading, "problem": f"id of {question}"}


def held_out() -> dict:
    def answer(text, correct, outcome="graded"):
        return {
            "response": text,
            "num_cut": 0,
            "extracted": None,
            "outcome": outcome,
            "correct": correct,
            "stop": "eos",
            "num_tokens": 5,
        }

    problems = [
        {"problem": "a", "question": "stays", "ground_truth": "1", "answers": [answer("x", 1), None, answer("y", 1)]},
        {
            "problem": "b",
            "question": HOSTILE,
            "ground_truth": "2",
            "answers": [answer("early", 0, "no answer"), answer("middle", 0), answer(HOSTILE, 1)],
        },
    ]
    return {"steps": [0, 2, 5], "problems": problems, "note": ""}


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    run = run_json("run", 1, 5) | {"held_out": held_out(), "changed": {"tree.width": 4, "train.seed": None}}
    run["headline"] = [
        {"name": "model", "value": HOSTILE, "hint": HOSTILE},
        {"name": "steps", "value": "5", "hint": ""},
    ]
    trees = [graded("What is 3 + 4?", [1.0, -0.25, 0.0], ["7", "8", None]), graded("other", [0.0, 1.0], ["1", "2"])]
    later = [graded("other", [1.0, 1.0], ["2", "2"]), graded("What is 3 + 4?", [1.0, 1.0], ["7", "7"])]
    steps = [{"step": 1, "trees": trees}, {"step": 5, "trees": later}]
    run["trees"] = {"pieces": LETTERS, "steps": steps}
    path, errors = tmp_path_factory.mktemp("answers") / "page.html", []
    path.write_text(page_html(payload_json([run], [])), "utf-8")
    yield open_page(browser, path, errors)
    assert errors == []


def test_the_page_opens_with_a_headline_and_the_four_charts_that_matter(page):
    page.click("#tab-curves")
    facts = page.locator("#curves .headline")
    assert facts.locator("dt").all_inner_texts() == ["model", "steps"]
    assert facts.locator("dd").all_inner_texts() == [HOSTILE.replace("\u202e", "\\u202e"), "5"]
    first = page.locator("#curves .group").first
    assert first.locator("h3").all_inner_texts() == ["Held-out accuracy", "Reward"], "those of the four that there are"
    chart(page, "Held-out accuracy")


def test_problems_are_called_by_their_questions(page):
    """They were called by the beginning of the chat template, all alike."""
    page.click("#tab-trees")
    page.evaluate("location.hash = '#trees?run=run&step=1&tree=0&node=0'")
    page.wait_for_selector(".problems .name:text-is('other') >> visible=true")
    page.wait_for_selector("[data-tree='0'] .name:text-is('What is 3 + 4?')")
    assert page.locator(".problems .name").all_inner_texts() == ["What is 3 + 4?", "other"]


def test_each_leaf_says_how_it_was_graded(page):
    page.click("#tab-trees")
    page.evaluate("location.hash = '#trees?run=run&step=1&tree=0&node=0&tab=answers'")
    page.wait_for_selector(".panel-body .answers")
    rows = [row.split("\t") for row in page.locator(".answers tbody tr").all_inner_texts()]
    assert [row[1:5] for row in rows] == [
        ["7", "right", "1", "1"],
        ["8", "wrong", "\u22120.25", "0"],
        ["\u2013", "no answer", "0", "0"],
    ]
    assert HOSTILE.replace("\u202e", "\\u202e") in page.inner_text(".panel-body .known")
    page.locator(".answers .link").nth(1).click()
    page.wait_for_selector(".panel-body h3:text-is('Trajectory to leaf 2')")
    assert "answer 8, known answer" in page.locator(".panel-body .note").first.inner_text()
    page.click("[data-tab=segment]")
    verdict = page.locator(".panel-body dt:text-is('verdict') + dd")
    assert verdict.inner_text() == "wrong"
    assert page.locator(".panel-body dt:text-is('parts of it') + dd").inner_text().startswith("correct 0, ")
    page.evaluate("location.hash = '#trees?run=run&step=1&tree=0&node=0&view=compare'")
    page.wait_for_selector(".columns article")
    assert "answer 8, wrong" in page.locator(".columns").inner_text()


def test_from_a_problem_one_gets_to_the_same_one_at_another_step(page):
    page.click("#tab-trees")
    page.evaluate("location.hash = '#trees?run=run&step=1&tree=0&node=0&tab=answers&view=tree'")
    page.wait_for_selector(".same-problem .chip")
    assert page.locator(".same-problem .chip").all_inner_texts() == ["1 \u00b7 0.25", "5 \u00b7 1"]
    page.locator(".same-problem .chip").nth(1).click()
    page.wait_for_selector(".problems [data-tree='1'][aria-current]")
    assert page.locator(".problems [aria-current] .name").inner_text() == "What is 3 + 4?"
    assert page.locator(".answers tbody tr").count() == 2, "the tab stays"


def test_early_and_late_answers_stand_side_by_side(page):
    page.click("#tab-answers")
    assert "1 became right, 0 became wrong" in page.inner_text("#answers [role=status]")
    first = page.locator(".held-out").first
    assert first.locator(".text").all_inner_texts() == ["early", HOSTILE.replace("\u202e", "\\u202e")], (
        "changes come first"
    )
    assert first.locator(".verdict").all_inner_texts() == ["no answer", "right"]
    page.get_by_label("against step").select_option("2")
    assert page.locator(".held-out").first.locator("header strong").all_inner_texts() == ["step 0", "step 2"]
    assert "not asked" in page.locator("#answers").inner_text()
    page.get_by_label("show").select_option("gained")
    assert "There is no such problem." in page.locator("#answers").inner_text()
    page.get_by_label("against step").select_option("5")
    assert page.locator(".held-out").count() == 1
    page.get_by_label("show").select_option("all")
    assert page.evaluate("window.pwned") is None
    assert page.locator("main img, main b").count() == 0


def test_settings_that_are_not_the_default_are_marked(page):
    page.click("#tab-settings")
    rows = page.locator("#settings section").first.locator("tbody tr.changed")
    assert [row.split("\t") for row in rows.all_inner_texts()] == [
        ["tree.width", "8", "4"],
        ["train.seed", "0", "no default"],
    ]
    page.get_by_label("only what is not the default").check()
    assert page.locator("#settings section").first.locator("tbody tr").count() == 2
    page.get_by_label("only what is not the default").uncheck()


def test_narrow_windows_hold_answers(page):
    page.set_viewport_size({"width": 390, "height": 800})
    for tab in ("curves", "answers", "settings"):
        page.click(f"#tab-{tab}")
        page.wait_for_timeout(50)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click("#tab-trees")
    page.evaluate("location.hash = '#trees?run=run&step=1&tree=0&node=0&tab=answers'")
    page.wait_for_selector(".answers")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1300, "height": 900})
