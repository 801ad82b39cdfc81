"""What a JSON file is, and its figures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from treepo.report.figures.evaluation import Result, evaluation_figures
from treepo.report.figures.figure import Figure
from treepo.report.figures.rollout import rollout_figures
from treepo.report.figures.rollout_file import RolloutFile
from treepo.report.figures.update import UpdateFile, update_figures


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
