"""What a JSON file is, and its figures."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from treepo.report.charts.base import Figure
from treepo.report.charts.evaluation import Result, evaluation_figures
from treepo.report.charts.rollout import RolloutFile, rollout_figures
from treepo.report.charts.update import UpdateFile, update_figures
from treepo.utils.text import sanitize


def figures_of_json(path: Path) -> list[Figure] | None:
    """Figures of what `treepo eval` or `treepo bench` kept in a file; None if it is something else.

    Raises ValueError naming the file if it cannot be read, or is one of these but damaged.
    """
    try:
        content = json.loads(path.read_bytes())
        return _figures(content)
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(f"{str(path)!r} is damaged: {field}: {first['msg']}") from error
    except OverflowError as error:
        raise ValueError(f"{str(path)!r} is damaged: a number is too large: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is damaged: it is no JSON: {error}") from error


def _figures(content: Any) -> list[Figure] | None:
    """Told by what nothing else has: results have a sampling setting, contenders their own measures."""
    results = content.get("results") if isinstance(content, dict) else content
    if _first_has(results, "setting", "overall"):
        return _made(list[Result], results, evaluation_figures)
    if not isinstance(content, dict) or not _first_has(content.get("workloads"), "contenders"):
        return None
    contenders = content["workloads"][0]["contenders"]
    if _first_has(contenders, "trajectories_per_s"):
        return _made(RolloutFile, content, rollout_figures)
    if _first_has(contenders, "num_forwarded"):
        return _made(UpdateFile, content, update_figures)
    return None


def _first_has(rows: Any, *names: str) -> bool:
    """Whether this is a list whose first row has these fields."""
    return (
        isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and all(name in rows[0] for name in names)
    )


def _made(kind: Any, content: Any, figures: Callable[[Any], list[Figure]]) -> list[Figure]:
    return figures(TypeAdapter(kind).validate_python(content))


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
    return replace(figure, id=f"{slug}-{figure.id}", note="; ".join(filter(None, (sanitize(name), figure.note))))
