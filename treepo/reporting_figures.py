"""Which folders and files hold a benchmark or an evaluation, and their figures for the report."""

import re
from dataclasses import replace
from pathlib import Path

from treepo.printable import printable
from treepo.report.figures import Figure, figures_of_json

NAMES = ("results.json", "rollout.json", "update.json")
"""What `treepo eval`, `treepo bench rollout` and `treepo bench update` keep in their folders."""


def figures_of(path: Path) -> list[Figure] | None:
    """Figures of a file or folder of `treepo eval` or `treepo bench`; None for anything else, a run among them.

    Raises ValueError naming the file if it is damaged.
    """
    files = [path / name for name in NAMES if (path / name).is_file()] if path.is_dir() else [path]
    found = []
    for file in files:
        figures = figures_of_json(file) if file.suffix == ".json" and file.is_file() else None
        found += figures or []
    return found or None


def named(figure: Figure, name: str) -> Figure:
    """The figure as one of the file or folder of that name: its id begins with it, its note names it."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name.removesuffix(".json")).strip("-")
    return replace(figure, id=f"{slug}-{figure.id}", note="; ".join(filter(None, (printable(name), figure.note))))
