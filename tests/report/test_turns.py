"""Who wrote what: in the terminal, in notebooks, in samples and in the explorer."""

import io
import re

from rich.console import Console

from tests.report.browser import browser, open_page
from tests.report.explorer_page import explorer_page, payload_of
from tests.report.turns_tree import turns_tree
from treepo.envs.transcript import TurnText, roles_of, transcript
from treepo.report.page.held_out import held_out_json
from treepo.report.page.token_texts import TokenTexts
from treepo.report.page.trees import Pieces, tree_json
from treepo.report.run_log import choose_samples
from treepo.report.tree_html import kept_tree_html
from treepo.report.tree_view import show_tree
from treepo.tree import Tree

__all__ = ["browser"]

HOSTILE = "<img src=x onerror=window.pwned=1>\x1b[31m"


def printed(role: str = "user") -> str:
    kept, spelled = turns_tree(role)
    file = io.StringIO()
    show_tree(kept.tree, spelled.decode, Console(file=file, width=200))
    return file.getvalue()


def test_a_transcript_tells_turns_apart_and_gives_each_its_reward() -> None:
    kept, spelled = turns_tree()
    leaves = kept.tree.leaves()
    assert transcript(kept.tree, leaves[0], spelled.decode) == [
        TurnText("assistant", "I think I go west. ", -0.1),
        TurnText("user", "There is a wall. "),
        TurnText("assistant", "Then I go east. ", 1.0),
    ]
    assert transcript(kept.tree, leaves[2], spelled.decode)[-1] == TurnText("assistant", "Let me break it. ")
    assert transcript(kept.tree, leaves[3], spelled.decode) == [TurnText("assistant", "Well, well, well, ")]
    plain = Tree("p", [node for node in kept.tree.nodes[:2] if not node.observed])
    assert transcript(plain, 1, spelled.decode) == []


def test_roles_are_those_of_the_messages_with_the_names_of_tools() -> None:
    messages = [{"role": "tool", "name": "sum"}, {"role": "tool", "name": "sum"}, {"role": "user", "content": "?"}]
    assert roles_of(messages) == "tool sum, user"


def test_the_terminal_shows_turns_in_lines_of_their_own() -> None:
    text = printed()
    lines = [re.sub("^[│├└─ ]*", "", line).rstrip() for line in text.splitlines()]
    assert "I think I go west.   [reward -0.1]" in lines and "[user] There is a wall." in lines
    assert "Then I go east.   [env_done, 9 tokens, 2 turns, reward -0.1 + 1 = 0.9]" in lines
    assert "break it.   [env_error, 9 tokens, 2 turns, reward -0.1]" in lines
    assert "Well, well, well,   [length, 3 tokens]" in lines
    assert text.rstrip().endswith("; 1.8 turns each, 4 tokens observed")
    assert "\x1b[31m" not in printed(HOSTILE)


def test_a_notebook_shows_roles_and_rewards_and_runs_nothing() -> None:
    kept, spelled = turns_tree(HOSTILE)
    html = kept_tree_html(kept, spelled.decode)
    assert "<img" not in html and "&lt;img" in html
    assert "reward -0.1" in html and "in 2 turns" in html and "rewards by turn -0.1, 1" in html


def test_samples_hold_turns_and_a_response_of_what_was_sampled() -> None:
    kept, spelled = turns_tree()
    best = choose_samples([kept], spelled.decode, 1, 4)[-1]
    rows = {row.stop: row for row in choose_samples([kept], spelled.decode, 1, 4)}
    assert rows["env_error"].response == "I think I go west. Let me break it. "
    assert [turn["role"] for turn in rows["env_error"].turns] == ["assistant", "user", "assistant"]
    assert "user: There is a wall." in str(rows["env_error"].cells()["turns"])
    assert best.turns


def test_turns_of_held_out_answers_are_cut_and_whatever_else_stands_there_is_left_out() -> None:
    """samples.jsonl may come from anybody."""
    turns = [{"role": "user", "text": "x" * 3990, "reward": 1}, "?", {"role": 3, "text": "y" * 99, "reward": "z"}]
    sample = {"step": 1, "split": "eval", "problem": "p", "reward": 0.5, "turns": [*turns, {"text": "cut"}]}
    ((answer,),) = (problem["answers"] for problem in held_out_json([sample])["problems"])
    assert [(turn["role"], len(turn["text"]), turn["reward"]) for turn in answer["turns"]] == [
        ("user", 3990, 1),
        ("", 10, None),
    ]
    (other,) = held_out_json([sample | {"turns": "no list"}])["problems"]
    assert other["answers"][0]["turns"] == [] and other["answers"][0]["reward"] == 0.5


def test_the_explorer_shows_who_wrote_what(browser, tmp_path) -> None:
    """Dashed bars for what was observed, heads of turns with rewards, a column per fact; roles are text."""
    kept, spelled = turns_tree(HOSTILE)
    pieces: Pieces = {}
    made = tree_json(kept, TokenTexts(spelled.decode).of(kept.tree), pieces)
    path, errors = tmp_path / "page.html", []
    path.write_text(explorer_page(payload_of([made], list(pieces))), "utf-8")
    page = open_page(browser, path, errors)
    assert page.locator("svg.tree .bars rect[stroke-dasharray]").count() == 1
    assert "written by the environment" in (page.text_content("svg.tree") or "")
    leaf = kept.tree.leaves()[1]
    page.evaluate("leaf => (location.hash = `#trees?run=run&step=7&tree=0&node=${leaf}&tab=trajectory`)", leaf)
    page.wait_for_function("document.querySelectorAll('.turn-head').length === 3")
    heads = [head.text_content() or "" for head in page.locator(".turn-head").all()]
    assert heads[0] == "model · turn 1 · reward \u22120.1" and heads[2] == "model · turn 2 · reward 0"
    assert heads[1].startswith("<img src=x") and heads[1].endswith(" · turn 1")
    observed = page.locator(".panel-body .text .observed").all_text_contents()
    assert "".join(observed).strip() == "There is a wall."
    page.evaluate("location.hash = '#trees?run=run&step=7&tree=0&node=1&view=compare&leaves=3.5'")
    page.wait_for_function("document.querySelectorAll('.columns .observed').length === 2")
    assert page.locator(".columns .observed").first.text_content() == "There is a wall. "
    page.evaluate(
        "leaf => (location.hash = `#trees?run=run&step=7&tree=0&node=${leaf}&tab=trajectory&view=tree`)", leaf
    )
    page.click("[data-tab=segment]")
    facts = page.inner_text(".panel-body dl.facts")
    assert "the environment forks within turn 2" in facts and "reward of the turn" in facts
    assert page.evaluate("window.pwned") is None and page.locator("#trees img").count() == 0
    assert errors == []
