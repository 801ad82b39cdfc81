"""A tree as HTML for notebooks: it opens and closes without scripts, and nothing in it is ever markup."""

from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from treepo.data.problem import Outcome
from treepo.envs.transcript import MODEL, text_of, turn_parts
from treepo.report.tree_view import summary
from treepo.report.trees import Grading, KeptTree
from treepo.tree import ROOT, Tree
from treepo.utils.text import pluralize, sanitize

MAX_CHARACTERS = 4000
"""Of a segment or a prompt that are shown; a notebook keeps its outputs."""

MAX_SEGMENTS = 1000
"""Branches of a tree that are shown."""

STYLE = {
    "tree": "font:13px/1.5 system-ui,sans-serif;border:1px solid #8884;border-radius:6px;padding:8px 12px",
    "text": "white-space:pre-wrap;overflow-wrap:anywhere;font-family:ui-monospace,monospace;font-size:12px",
    "observed": "display:block;white-space:pre-wrap;overflow-wrap:anywhere;font:italic 12px ui-monospace,monospace;"
    "background:#8882;border-left:3px solid #56b4e9;margin:2px 0;padding:1px 6px",
    "role": "font:600 11px system-ui,sans-serif",
    "branch": "margin:2px 0 2px 10px;border-left:2px solid #8884;padding-left:10px",
    "note": "opacity:.7",
    "right": "color:#009e73;font-weight:600",
    "wrong": "color:#d55e00;font-weight:600",
}

Decode = Callable[[Sequence[int]], str]


def tree_html(
    tree: Tree,
    decode: Decode,
    *,
    rewards: np.ndarray | None = None,
    grading: Grading | None = None,
    title: str = "",
) -> str:
    """The tree as self-contained HTML: question and known answer, then the branches, each leaf with its end.

    decode: token ids to text. rewards: float [L], per leaf in the order of `Tree.leaves`; grading: of the same leaves.
    All texts are sanitized and escaped.
    """
    return kept_tree_html(KeptTree(tree, rewards, grading=grading), decode, title)


def kept_tree_html(kept: KeptTree, decode: Decode, title: str = "") -> str:
    """`tree_html` of a tree that was kept, with its advantages."""
    tree, grading = kept.tree, kept.grading
    question = grading.question if grading else decode(tree.prompt_ids.tolist())
    head = [
        _span(title or f"Tree of {tree.problem_id}", "font-weight:600"),
        _span(f" \N{MIDDLE DOT} {_told(kept)}", "note"),
    ]
    ground_truth = grading.ground_truth if grading else ""
    known = f"<div>Known answer: {_span(ground_truth, 'text')}</div>" if ground_truth else ""
    body = (
        f"<div style='{STYLE['text']};font-weight:600'>{_text(question)}</div>{known}{_Branches(kept, decode).html()}"
    )
    return f"<div style='{STYLE['tree']}'><div>{''.join(head)}</div>{body}</div>"


def _told(kept: KeptTree) -> str:
    if not kept.tree.leaves():
        return "nothing is grown yet"
    known = [] if kept.rewards is None else kept.rewards[np.isfinite(kept.rewards)]
    rewards = f"; mean reward {np.mean(known):.3g}" if len(known) else ""
    return summary(kept.tree) + rewards


class _Branches:
    """What is below the prompt. Segments that follow each other without a fork are one branch."""

    def __init__(self, kept: KeptTree, decode: Decode) -> None:
        self.kept, self.decode = kept, decode
        self.children = kept.tree.children()
        self.place = {leaf: i for i, leaf in enumerate(kept.tree.leaves())}
        self.advantages = kept.leaf_advantages()

    def html(self) -> str:
        """The branches, depth first; not by recursion, since trees of chains may be deep."""
        parts: list[str] = []
        waiting: list[int | str] = list(reversed(self.children[ROOT]))
        num_shown = 0
        while waiting:
            item = waiting.pop()
            if isinstance(item, str):
                parts.append(item)
                continue
            num_shown += 1
            if num_shown > MAX_SEGMENTS:
                continue
            run = [item]
            while len(self.children[run[-1]]) == 1:
                run += self.children[run[-1]]
            below = self.children[run[-1]]
            parts.append(self._opening(run, bool(below)))
            waiting += ["</details>" if below else "</div>", *reversed(below)]
        if num_shown > MAX_SEGMENTS:
            parts.append(f"<div style='{STYLE['note']}'>{num_shown - MAX_SEGMENTS:,} more segments</div>")
        return "".join(parts)

    def _opening(self, run: Sequence[int], has_branches: bool) -> str:
        """A branch with its text, still open."""
        tree, text = self.kept.tree, ""
        for role, part in turn_parts(tree, run):
            own = text_of(tree, part, self.decode)
            if role == MODEL:
                text += _span(own, "text")
            else:
                reward = tree.nodes[part[0]].reward
                text += "" if reward is None else _span(f" reward {reward:.3g}", "note")
                head = f"{_span(role, 'role')} "
                text += f"<span style='{STYLE['observed']}'>{head}{_text(own.strip())}</span>"
        if has_branches:
            return f"<details open style='{STYLE['branch']}'><summary>{text}</summary>"
        return f"<div style='{STYLE['branch']}'>{text} {self._end(run[-1])}"

    def _end(self, leaf: int) -> str:
        """Why a path ended, and what its answer is worth."""
        tree, place, grading = self.kept.tree, self.place.get(leaf), self.kept.grading
        if place is None:
            return _span("still growing", "note")
        facts = [f"{tree.nodes[leaf].stop}, {pluralize(tree.response_len(leaf), 'token')}"]
        if tree.has_turns:
            facts[0] += f" in {pluralize(len(tree.turn_starts(leaf)), 'turn')}"
            facts += [f"rewards by turn {', '.join(f'{reward:.3g}' for reward in tree.turn_rewards(leaf)) or 'none'}"]
        verdict = ""
        if grading is not None:
            correct, outcome = float(grading.correct[place]), str(grading.outcomes[place])
            if outcome != Outcome.UNVERIFIED.value:
                verdict = f"{_span(_verdict(correct, outcome), 'right' if correct == 1 else 'wrong')} "
                facts.append(f"answer {grading.extracted_answers[place] or 'none'}")
            facts += [f"{name} {values[place]:.3g}" for name, values in grading.parts.items() if len(grading.parts) > 1]
            facts += [f"{name} {values[place]!s:.50}" for name, values in grading.extra.items()]
        if self.kept.rewards is not None and np.isfinite(self.kept.rewards[place]):
            facts.append(f"reward {self.kept.rewards[place]:.3g}")
        if self.advantages is not None:
            facts.append(f"advantage {self.advantages[place]:+.3g}")
        return verdict + _span(f"[{'; '.join(facts)}]", "note")


def _verdict(correct: float, outcome: str) -> str:
    """The verdict on an answer, or why there is none."""
    if outcome != Outcome.GRADED.value:
        return outcome
    return {1.0: "right", 0.0: "wrong"}.get(correct, f"{correct:.3g}")


def _span(text: str, style: str) -> str:
    return f"<span style='{STYLE.get(style, style)}'>{_text(text)}</span>"


def _text(text: str) -> str:
    """Untrusted text: nothing in it is markup, or steers what is shown."""
    more = f" ... {len(text) - MAX_CHARACTERS:,} more characters" if len(text) > MAX_CHARACTERS else ""
    return escape(sanitize(text, multiline=True, max_chars=MAX_CHARACTERS) + more)
