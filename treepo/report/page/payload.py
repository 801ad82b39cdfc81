"""The payload of a page: everything that it shows, as JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import treepo
from treepo.report.notebook import facts_html
from treepo.report.page.headline import headline_of
from treepo.report.page.held_out import CHARACTERS, held_out_json
from treepo.report.page.series import series_of
from treepo.report.page.token_texts import TokenTexts
from treepo.report.page.trees import Breakdown, TreeReader, choose_trees
from treepo.report.run_log import MAX_NUMBER, is_number
from treepo.utils.files import LOG_BYTES, read_plain
from treepo.utils.settings_file import read_toml

ENVIRONMENT_NAME = "environment.jsonl"


@dataclass(frozen=True)
class RunFolder:
    """Reads what a run has written so far; unreadable parts count as missing."""

    path: Path

    def _repr_html_(self) -> str:
        """The headline of the run, for notebooks."""
        facts = headline_of(self.settings(), self.metrics())
        return facts_html(f"Run {self.path}", [(fact["name"], fact["value"]) for fact in facts])

    def is_run(self) -> bool:
        """Whether the folder holds a run."""
        return (self.path / "config.toml").is_file() or (self.path / "metrics.jsonl").is_file()

    def metrics(self) -> dict[int, dict[str, float]]:
        """The numbers of each step by name, steps ascending; of a repeated step the last one counts."""
        by_step = {}
        for line in _objects(self.path / "metrics.jsonl"):
            step = line.pop("step", None)
            if isinstance(step, int) and abs(step) <= MAX_NUMBER:
                by_step[step] = {name: value for name, value in line.items() if is_number(value)}
        return dict(sorted(by_step.items()))

    def settings(self) -> dict[str, Any]:
        """All settings by `section.key`."""
        try:
            tables = read_toml(self.path / "config.toml")
        except (OSError, ValueError):
            return {}
        sections = {name: table for name, table in tables.items() if isinstance(table, dict)}
        return {f"{name}.{key}": value for name, table in sections.items() for key, value in table.items()}

    def section(self, name: str) -> dict[str, Any]:
        """The settings of one section by key."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): v for key, v in self.settings().items() if key.startswith(prefix)}

    def environment(self) -> dict[str, str]:
        """The environment of the last process, when the run was started, and when it was resumed."""
        processes = list(_objects(self.path / ENVIRONMENT_NAME))
        if not processes:
            return {}
        started = [str(process.get("started", "")) for process in processes]
        resumed = {"resumed": ", ".join(started[1:])} if len(started) > 1 else {}
        return {name: str(value) for name, value in processes[-1].items()} | {"started": started[0]} | resumed

    def samples(self) -> list[dict[str, Any]]:
        """The objects of samples.jsonl."""
        return _objects(self.path / "samples.jsonl")

    def tree_files(self) -> dict[int, Path]:
        """The file of each step with stored trees, steps ascending."""
        named = [(path.stem.removeprefix("step-"), path) for path in (self.path / "trees").glob("step-*.parquet")]
        return dict(sorted((int(step), path) for step, path in named if step.isdecimal()))


def _objects(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file that has one per line."""
    try:
        lines = read_plain(path, LOG_BYTES).decode("utf-8", "replace").split("\n")
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


VERSION = 1

TREE_CHARACTERS = 2_700_000
"""Characters of a page for the trees of all its runs."""


@dataclass(frozen=True)
class ShownRun:
    """One run of a page.

    decode: token ids to text, or None without a tokenizer. breakdown: see `AdvantageBreakdown`. note: a remark on its
    trees, or empty. changed: the default of each setting (`section.key`) that has another value.
    """

    name: str
    folder: RunFolder
    decode: Callable[[Sequence[int]], str] | None
    breakdown: Breakdown
    note: str = ""
    changed: Mapping[str, Any] = field(default_factory=dict)


def page_payload(
    title: str, runs: Sequence[ShownRun], charts: Sequence[dict[str, Any]], written: datetime
) -> dict[str, Any]:
    """The payload of a page with runs and charts of evaluations and benchmarks; names and ids become distinct."""
    names = distinct([run.name for run in runs])
    ids = distinct([chart["id"] for chart in charts], "{}-{}")
    num_runs = max(len(runs), 1)
    budgets = TREE_CHARACTERS // num_runs, CHARACTERS // num_runs
    return {
        "version": VERSION,
        "title": title,
        "treepo": treepo.__version__,
        "written": written.isoformat(timespec="seconds"),
        "runs": [run_payload(name, run, *budgets) for name, run in zip(names, runs, strict=True)],
        "charts": [{**chart, "id": own} for chart, own in zip(charts, ids, strict=True)],
    }


def run_payload(name: str, run: ShownRun, budget: int, held_out_budget: int = CHARACTERS) -> dict[str, Any]:
    """The payload of one run; budget: characters for its trees, and for its answers to held-out problems."""
    folder = run.folder
    metrics = folder.metrics()
    series = series_of(metrics)
    files = folder.tree_files()
    texts = None if run.decode is None else TokenTexts(run.decode)
    chosen = choose_trees(files, budget, TreeReader(texts, run.breakdown))
    no_tokenizer = "" if run.decode else "no tokenizer: the text of a segment is not divided into tokens"
    tree_notes = [no_tokenizer, run.note] if files else []
    return {
        "name": name,
        "headline": headline_of(folder.settings(), metrics),
        "settings": folder.settings(),
        "changed": dict(run.changed),
        "environment": folder.environment(),
        "steps": series.steps,
        "metrics": series.metrics,
        "so_far": {"tokens": series.tokens, "seconds": series.seconds},
        "note": "; ".join(filter(None, [series.note, *chosen.notes, *tree_notes])),
        "trees": {
            "pieces": list(chosen.pieces),
            "steps": [{"step": step, "trees": trees} for step, trees in chosen.steps.items()],
        },
        "held_out": held_out_json(folder.samples(), held_out_budget),
    }


def distinct(names: Sequence[str], numbered: str = "{} ({})") -> list[str]:
    """The names, each repeated one with a number behind it in the format `numbered`."""
    taken: list[str] = []
    for name in names:
        number, own = 2, name
        while own in taken or (own != name and own in names):
            own, number = numbered.format(name, number), number + 1
        taken.append(own)
    return taken
