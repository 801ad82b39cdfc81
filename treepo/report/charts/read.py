"""Recognises the JSON files of evaluations and benchmarks and makes their charts."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from treepo.errors import SettingError
from treepo.evaluate.results import Result
from treepo.evaluate.store import RESULTS
from treepo.report.bench_results import ROLLOUT_NAME, UPDATE_NAME, RolloutReport, UpdateReport
from treepo.report.charts.base import Chart
from treepo.report.charts.bench import rollout_charts, update_charts
from treepo.report.charts.evaluation import evaluation_charts
from treepo.utils.files import JSON_BYTES, read_plain
from treepo.utils.text import sanitize

NAMES = (RESULTS, ROLLOUT_NAME, UPDATE_NAME)
"""The result files in the folders of `treepo eval`, `treepo bench rollout` and `treepo bench update`."""


def charts_of(path: Path) -> list[Chart] | None:
    """Charts of a file or folder of `treepo eval` or `treepo bench`; None for anything else, such as a run.

    Raises SettingError naming the file if it is damaged.
    """
    files = [path / name for name in NAMES if (path / name).is_file()] if path.is_dir() else [path]
    charts = []
    for file in files:
        if file.suffix == ".json" and file.is_file():
            charts += _charts_of_json(file) or []
    return charts or None


def with_source(chart: Chart, name: str) -> Chart:
    """The chart of the file or folder of that name: its id begins with the name, its note names it."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name.removesuffix(".json")).strip("-")
    return replace(chart, id=f"{slug}-{chart.id}", note="; ".join(filter(None, (sanitize(name), chart.note))))


def _charts_of_json(path: Path) -> list[Chart] | None:
    try:
        return _charts(json.loads(read_plain(path, JSON_BYTES)))
    except OSError as error:
        raise SettingError("report", f"{str(path)!r} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except OverflowError as error:
        reason = f"a number is too large: {error}"
    except (ValueError, RecursionError) as error:
        reason = f"it is no JSON: {error}"
    raise SettingError("report", f"{str(path)!r} is damaged: {reason}")


def _charts(content: Any) -> list[Chart] | None:
    """Recognised by fields that no other file has: results have a sampling setting, variants their own measures."""
    results = content.get("results") if isinstance(content, dict) else content
    if _first_has(results, "setting", "overall"):
        return evaluation_charts(TypeAdapter(list[Result]).validate_python(results))
    if not isinstance(content, dict) or not _first_has(content.get("workloads"), "variants"):
        return None
    variants = content["workloads"][0]["variants"]
    if _first_has(variants, "trajectories_per_s"):
        return rollout_charts(TypeAdapter(RolloutReport).validate_python(content))
    if _first_has(variants, "num_forwarded"):
        return update_charts(TypeAdapter(UpdateReport).validate_python(content))
    return None


def _first_has(rows: Any, *names: str) -> bool:
    """Whether this is a list whose first row has these fields."""
    return (
        isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and all(name in rows[0] for name in names)
    )
