"""A step and a run as HTML for notebooks; nothing in it is ever markup."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from treepo.report.tree_html import kept_tree_html
from treepo.report.trees import KeptTree
from treepo.utils.text import sanitize

STEP_FACTS = {
    "reward/mean": ("reward", "{:.3f}"),
    "accuracy": ("accuracy", "{:.1%}"),
    "eval/avg": ("held-out accuracy", "{:.1%}"),
    "eval/pass": ("held-out pass@k", "{:.1%}"),
    "problems/trained": ("trees trained on", "{:.0f}"),
    "completions/length/mean": ("response length", "{:.1f}"),
    "turns/mean": ("turns", "{:.1f}"),
    "environment/lost": ("lost to environments", "{:.1%}"),
    "entropy": ("entropy", "{:.3f}"),
    "tokens/sharing": ("sharing", "{:.2f}"),
    "time/step_s": ("seconds", "{:.1f}"),
}
"""Metrics of a step that are shown: what they are called, and their format."""


def facts_html(title: str, facts: Iterable[tuple[str, str]]) -> str:
    """A title above (name, value) pairs side by side. Texts are sanitized and escaped."""
    cells = "".join(
        f"<div style='margin-right:24px'><div style='opacity:.7'>{_text(name)}</div><b>{_text(value)}</b></div>"
        for name, value in facts
    )
    row = f"<div style='display:flex;flex-wrap:wrap'>{cells}</div>"
    return f"<div style='font:13px/1.5 system-ui,sans-serif;margin:6px 0'><b>{_text(title)}</b>{row}</div>"


def step_html(
    title: str,
    metrics: Mapping[str, float],
    trees: Sequence[KeptTree] = (),
    decode: Callable[[Sequence[int]], str] | None = None,
    max_trees: int = 3,
) -> str:
    """The metrics of a step that matter, and its first trees. decode: token ids to text, needed for trees."""
    known = [(name, form.format(metrics[key])) for key, (name, form) in STEP_FACTS.items() if key in metrics]
    shown = [] if decode is None else [kept_tree_html(kept, decode) for kept in trees[:max_trees]]
    more = len(trees) - len(shown)
    rest = f"<div style='opacity:.7'>{more} more trees</div>" if shown and more > 0 else ""
    return facts_html(title, known) + "".join(shown) + rest


def _text(text: str) -> str:
    return escape(sanitize(text, max_chars=500))
