"""Trees read back from what was printed."""

import re

INDENT = 4
"""Columns of one branch."""


def read_printed(text: str) -> tuple[str, list[tuple[str, str]]]:
    """(prompt, per leaf its response and what is said of it), from lines that the terminal did not wrap."""
    lines = text.splitlines()
    path: list[str] = []
    leaves = []
    for line in lines[1:]:
        guides, shown = re.fullmatch(r"((?:[│ ] {3})*[├└]── )(.*)", line).groups()
        content, _, said = shown.partition("  [")
        path[len(guides) // INDENT - 1 :] = [content]
        if said:
            leaves.append(("".join(path), said.removesuffix("]")))
    return lines[0], leaves
