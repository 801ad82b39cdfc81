"""Makes the page of a run, or of several runs, evaluations and benchmarks."""

import base64
import gzip
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from transformers import PreTrainedTokenizerBase

from treepo.credit.base import Estimator
from treepo.errors import SettingError
from treepo.model.policy import decoded
from treepo.model.safety import check_model_files, check_tokenizer
from treepo.model.tokenizer import load_tokenizer
from treepo.report.charts.base import Chart
from treepo.report.charts.read import charts_of, with_source
from treepo.report.page.payload import RunFolder, ShownRun, distinct, page_payload
from treepo.report.page.trees import AdvantageBreakdown
from treepo.tasks.base import make_tokenizer
from treepo.tasks.registry import BUILT_IN_TASKS
from treepo.tasks.settings import TaskSettings
from treepo.utils.io import replace_text, writing
from treepo.utils.text import replace_surrogates, sanitize

MAX_PLAIN = 200_000
"""Characters of a payload that is not compressed."""


def page_html(payload: dict[str, Any], is_live: bool = False) -> str:
    """The page. is_live: whether it may fetch more from where it came from, as that of `treepo watch` does."""
    static = files("treepo.report.page").joinpath("static")
    names = sorted(entry.name for entry in static.iterdir())
    vendored = sorted(entry.name for entry in static.joinpath("vendor").iterdir())
    # What all others are called by comes last.
    own = sorted((name for name in names if name.endswith(".js")), key=lambda name: (name == "shell.js", name))
    scripts = [
        *(static.joinpath("vendor", name).read_text(encoding="utf-8") for name in vendored if name.endswith(".js")),
        *(static.joinpath(name).read_text(encoding="utf-8") for name in own),
    ]
    for script in scripts:
        assert "</script" not in script.lower() and "<!--" not in script, "a script ends where its element does"
    styles = [static.joinpath(name).read_text(encoding="utf-8") for name in names if name.endswith(".css")]
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(static.joinpath("page.html").read_text(encoding="utf-8"))
    kind, text = payload_text(payload)
    return template.render(
        title=replace_surrogates(payload["title"]),
        policy=policy(scripts, is_live),
        styles=styles,
        scripts=scripts,
        payload_type=kind,
        payload=text,
    )


def payload_text(payload: dict[str, Any]) -> tuple[str, str]:
    """(media type, text of the element that holds it): JSON, or where that is long its gzip in base64.

    The JSON is ASCII without `<`, `>` and `&`. Raises ValueError for a number that is not finite.
    """
    plain = json.dumps(payload, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    if len(plain) <= MAX_PLAIN:
        return "application/json", plain
    return "application/octet-stream", base64.b64encode(gzip.compress(plain.encode(), mtime=0)).decode()


def policy(scripts: list[str], is_live: bool) -> str:
    """The page's Content-Security-Policy: it runs these scripts alone and fetches nothing, or from its own server."""
    checksums = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{checksum}'" for checksum in checksums)
    rules = [
        "default-src 'none'",
        f"script-src {allowed}",
        "style-src 'unsafe-inline'",
        "img-src data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
        *(["connect-src 'self'"] if is_live else []),
    ]
    return "; ".join(rules)


REPORT_NAME = "report.html"

Decode = Callable[[Sequence[int]], str]

FindChanged = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""The settings of a run by `section.key` -> the default of each that has another value."""


def none_changed(_settings: Mapping[str, Any]) -> dict[str, Any]:
    """A FindChanged where defaults are not known."""
    return {}


FindEstimator = Callable[[Mapping[str, Any]], tuple[Estimator | None, str]]
"""The settings of a run's section `credit` -> (its estimator or None, a note on why there is none or "")."""


def write_run_report(
    folder: Path, decode: Decode, estimator: Estimator, written: datetime, find_changed: FindChanged = none_changed
) -> None:
    """Write the page of one run into its folder. decode: token ids to text. written: the time that the page shows.

    Raises WriteError.
    """
    run = _shown_run(RunFolder(folder), decode, estimator, find_changed)
    page = page_html(page_payload(run.name, [run], [], written))
    with writing(folder / REPORT_NAME, "the report"):
        replace_text(folder / REPORT_NAME, page)


def payload_of(
    paths: Sequence[Path], written: datetime, find_estimator: FindEstimator, find_changed: FindChanged = none_changed
) -> dict[str, Any]:
    """The payload of a page about runs, evaluations and benchmarks.

    Raises SettingError naming the first path that is none of these or cannot be read.
    """
    runs: list[ShownRun] = []
    results: list[tuple[str, list[Chart]]] = []
    for path in paths:
        try:
            found = _load(path, find_estimator, find_changed)
        except OSError as error:
            raise SettingError("report", f"{str(path)[:100]!r} cannot be read: {error.strerror}") from error
        if isinstance(found, ShownRun):
            runs.append(found)
        else:
            results.append((path.resolve().name, found))
    names = distinct([name for name, _ in results])
    charts = [with_source(one, name).as_json() for name, (_, own) in zip(names, results, strict=True) for one in own]
    return page_payload(" | ".join(map(_name, paths)), runs, charts, written)


def _load(path: Path, find_estimator: FindEstimator, find_changed: FindChanged) -> ShownRun | list[Chart]:
    folder = RunFolder(path)
    if folder.is_run():
        estimator, note = find_estimator(folder.section("credit"))
        return _shown_run(folder, find_decode(folder), estimator, find_changed, note)
    if (charts := charts_of(path)) is not None:
        return charts
    if not path.exists():
        raise SettingError("report", f"no folder {str(path)[:100]!r}")
    raise SettingError("report", f"{str(path)[:100]!r} holds no run, evaluation or benchmark")


def _shown_run(
    folder: RunFolder, decode: Decode | None, estimator: Estimator | None, find_changed: FindChanged, note: str = ""
) -> ShownRun:
    breakdown = AdvantageBreakdown(estimator, folder.section("credit").get("use"), folder.metrics())
    return ShownRun(_name(folder.path), folder, decode, breakdown, note, find_changed(folder.settings()))


def _name(path: Path) -> str:
    return sanitize(path.resolve().name)


def find_decode(folder: RunFolder) -> Decode | None:
    """Token ids to text with the tokenizer of the run's model, else of the model that it began with; None without one.

    Only files on this machine are read, and no code that comes with a model is run.
    """
    settings = folder.settings()
    model_path = settings.get("model.path", "")
    for path in (str(folder.path / "model"), model_path):
        if path and (tokenizer := _load_tokenizer(path)) is not None:
            return partial(decoded, tokenizer)
    task = BUILT_IN_TASKS.get(str(settings.get("task.name", TaskSettings().name)))
    if task is None or model_path != "" or settings.get("data.train"):
        return None
    return partial(decoded, make_tokenizer(task.tokens))


def _load_tokenizer(path: str) -> PreTrainedTokenizerBase | None:
    try:
        if Path(path).is_dir():
            check_model_files(Path(path))
            check_tokenizer(lambda: load_tokenizer(path, local_files_only=True).tokenizer, Path(path))
        return load_tokenizer(path, local_files_only=True).tokenizer
    except Exception:  # noqa: BLE001 - a folder without a tokenizer, or with a damaged one, raises many things
        return None
