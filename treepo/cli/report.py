"""`treepo report`: from folders to the file of a page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from treepo.config.load import resolve_as
from treepo.credit.base import Estimator
from treepo.credit.subgroup import TreePO
from treepo.model.policy import decoded
from treepo.report.charts.base import Figure
from treepo.report.charts.read import figures_of, named
from treepo.report.page.folder import RunFolder
from treepo.report.page.html import page_html
from treepo.report.page.payload import Explanation, ShownRun, distinct, page_payload
from treepo.tasks.chain_sums import make_chain_tokenizer
from treepo.utils.io import replace_text
from treepo.utils.text import sanitize

NAME = "report.html"

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class CreditSettings:
    """The one section of a run's settings that a report builds."""

    credit: Estimator = TreePO()


def report(paths: Sequence[Path], out: Path | None, say: Callable[[str], None], imports_own_code: bool = False) -> None:
    """Write the page of some runs, evaluations and benchmarks, and say where it is.

    imports_own_code: see `find_estimator`.
    Raises ValueError naming the path for what holds none of them, and for a file that cannot be written.
    """
    page = page_html(payload_of(paths, datetime.now(UTC), imports_own_code))
    out = out or _home(paths[0]) / NAME
    try:
        replace_text(out, page)
    except OSError as error:
        raise ValueError(f"out: cannot write to {str(out)[:100]!r}: {error.strerror}") from error
    say(f"The report is {out} ({len(page.encode()) / 1e6:.1f} MB).")


def report_of_run(folder: Path, decode: Decode, estimator: Estimator, written: datetime) -> None:
    """Write the page of one run into its folder, with a tokenizer and an estimator that are at hand."""
    payload = page_payload(_name(folder), [_shown(RunFolder(folder), decode, estimator)], [], written)
    replace_text(folder / NAME, page_html(payload))


def payload_of(paths: Sequence[Path], written: datetime, imports_own_code: bool = False) -> dict[str, Any]:
    """What the page of some paths shows. Raises ValueError naming the first that has nothing to show, or that cannot
    be read."""
    runs: list[ShownRun] = []
    others: list[tuple[str, list[Figure]]] = []
    for path in paths:
        try:
            found = _found(path, imports_own_code)
        except OSError as error:
            raise ValueError(f"report: {str(path)[:100]!r} cannot be read: {error.strerror}") from error
        if isinstance(found, ShownRun):
            runs.append(found)
        else:
            others.append((path.resolve().name, found))
    names = distinct([name for name, _ in others])
    figures = [named(one, name).as_json() for name, (_, found) in zip(names, others, strict=True) for one in found]
    return page_payload(" | ".join(map(_name, paths)), runs, figures, written)


def _found(path: Path, imports_own_code: bool) -> ShownRun | list[Figure]:
    folder = RunFolder(path)
    if folder.is_run():
        estimator, note = find_estimator(_credit_settings(folder), imports_own_code)
        return _shown(folder, find_decode(folder), estimator, note)
    if (figures := figures_of(path)) is not None:
        return figures
    if not path.exists():
        raise ValueError(f"report: no folder {str(path)[:100]!r}")
    raise ValueError(f"report: {str(path)[:100]!r} holds no run, evaluation or benchmark")


def find_decode(folder: RunFolder) -> Decode | None:
    """Token ids to text as the run's model has them: by what it saved, else by the model that it began with, from disk
    alone; None if there is neither. No code is run that comes with a model."""
    settings = folder.settings()
    named = settings.get("model.path", "")
    is_own_task = named == "" and not settings.get("data.train")
    for path in (str(folder.path / "model"), named):
        try:
            tokenizer = make_chain_tokenizer() if path == "" and is_own_task else _tokenizer(path)
        except ValueError:
            continue
        return partial(decoded, tokenizer)
    return None


def _tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Raises ValueError if there is none, or none that can be read."""
    if not path:
        raise ValueError("no model is named")
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ValueError(f"cannot load a tokenizer from {path!r}") from error


def _shown(folder: RunFolder, decode: Decode | None, estimator: Estimator | None, note: str = "") -> ShownRun:
    explanation = Explanation(estimator, _credit_settings(folder).get("use"), folder.metrics())
    return ShownRun(_name(folder.path), folder, decode, explanation, note)


def _credit_settings(folder: RunFolder) -> dict[str, Any]:
    named = folder.settings().items()
    return {name.removeprefix("credit."): value for name, value in named if name.startswith("credit.")}


def find_estimator(settings: Mapping[str, Any], imports_own_code: bool = False) -> tuple[Estimator | None, str]:
    """(the estimator of the settings `credit.*`, or None, why there is none if that can be told).

    imports_own_code: whether a module that they name is imported, and so run: whoever made the folder has chosen it.
    """
    use = str(settings.get("use", ""))
    if ":" in use and not imports_own_code:
        return None, f"no terms of advantages: `treepo report --own-code` imports {sanitize(use)}"
    try:
        return (resolve_as(CreditSettings, {"credit": settings}).credit if settings else None), ""
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a module may raise while it is imported
        return None, f"no terms of advantages: {sanitize(f'{type(error).__name__}: {error}')[:200]}"


def _name(path: Path) -> str:
    return sanitize(path.resolve().name)


def _home(path: Path) -> Path:
    return path if path.is_dir() else path.parent
