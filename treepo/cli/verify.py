"""`treepo verify`: judges responses of a file, to test a verifier on your data before training on it."""

import json
import logging
import shutil
import sys
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from treepo.cli.common import CommandParser
from treepo.config.help import settings_text
from treepo.config.load import read_recipe, resolve_as
from treepo.data.problem import Outcome, Verdict
from treepo.errors import RecordError, SettingError, VerifierError
from treepo.report.terminal import Terminal
from treepo.utils.text import sanitize
from treepo.verify import MathVerifier, Verifier, VerifierPool, VerifierPoolSettings
from treepo.verify.rows import Row, RowFormat, judge_rows, read_rows

logger = logging.getLogger(__name__)

ABOUT = """Judge responses by their known answers: rows of `answer` and `response` in a file of JSON lines, CSV, Parquet
or Arrow. Shows how many are right, and examples of those that are not. Neither a model nor PyTorch is loaded."""


@dataclass(frozen=True)
class VerifyConfig:
    """All settings of the command."""

    data: RowFormat = RowFormat()
    verifier: Verifier = MathVerifier()
    verifier_pool: VerifierPoolSettings = VerifierPoolSettings()


MAX_EXAMPLES = 3
"""Rows shown of each outcome that are not right."""

MAX_SHOWN = 200
"""Characters shown of an answer, and of the end of a response."""

MAX_BAD_NAMED = 10


def make_parser() -> CommandParser:
    """The options of the command."""
    parser = CommandParser("verify", ABOUT, _settings_help)
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="file, folder or dataset with the rows; - reads JSON lines from stdin"
    )
    parser.add_argument("--expected", metavar="FIELD", help="field with the expected verdict: show rows that differ")
    parser.add_argument(
        "--json", action="store_true", help="write an object per row to standard output, and the tables to stderr"
    )
    parser.add_argument(
        "--recipe", metavar="RECIPE.toml", help="settings: its [verifier] and the fields of its answers"
    )
    return parser


def run(options: Namespace, console: Console) -> int:
    """Judge the rows; returns 1 if a verdict differs from the expected one, else 0."""
    if not options.file:
        raise SettingError("verify", "no file given")
    config, tally, bad = resolve_as(VerifyConfig, _recipe(options.recipe), options.settings), Tally(), BadRows()
    on_bad = bad.add if config.data.on_bad_record == "skip" else _refuse
    with (
        Terminal(console).stage("judging"),
        _source(options.file) as source,
        VerifierPool(config.verifier, config.verifier_pool) as pool,
    ):
        rows = read_rows(source, config.data, options.expected or "", on_bad)
        try:
            for row, verdict in judge_rows(pool, rows):
                tally.add(row, verdict)
                if options.json:
                    print(json.dumps(_as_object(row, verdict)))
        except RecordError as error:
            raise SettingError("verify", str(error)) from error
        for crash in pool.crashes:
            logger.warning("verifier: %s", crash)
    bad.log()
    if not tally.num_rows:
        raise SettingError("verify", f"no row of {options.file!r} can be used")
    tally.show(console, with_expected=options.expected is not None)
    if tally.num_lost == tally.num_rows:
        raise VerifierError(f"verifier: no verdict on any of {tally.num_rows} rows: they crashed or ran out of time")
    return 1 if tally.differing else 0


@dataclass
class BadRows:
    """Rows that were passed over, of which a few are named."""

    count: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, error: RecordError) -> None:
        """Take note of what is wrong with one."""
        self.count += 1
        if len(self.named) < MAX_BAD_NAMED:
            self.named.append(str(error))

    def log(self) -> None:
        """Say how many there are, if any."""
        if self.count:
            more = "; ..." if self.count > len(self.named) else ""
            logger.warning("%d bad rows skipped: %s%s", self.count, "; ".join(self.named), more)


@dataclass
class Tally:
    """What has been judged so far: counts, and the rows to be shown."""

    num_rows: int = 0
    correct: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[Row, Verdict]]] = field(default_factory=dict)
    differing: list[tuple[Row, Verdict]] = field(default_factory=list)

    @property
    def num_lost(self) -> int:
        """Rows that the verifier came to no verdict on."""
        return self.outcomes[Outcome.CRASHED.value] + self.outcomes[Outcome.TIMEOUT.value]

    def add(self, row: Row, verdict: Verdict) -> None:
        """Count one, and keep it if it is to be shown."""
        outcome = verdict.outcome.value
        self.num_rows += 1
        self.correct += verdict.correct
        self.outcomes[outcome] += 1
        self.right[outcome] += verdict.correct == 1
        shown = self.examples.setdefault(outcome, [])
        if verdict.correct < 1 and len(shown) < MAX_EXAMPLES:
            shown.append((row, verdict))
        if row.expected is not None and row.expected != verdict.correct:
            self.differing.append((row, verdict))

    def show(self, console: Console, *, with_expected: bool) -> None:
        """Show the counts, and the rows that differ from what is expected, or examples of those that are not right."""
        table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
        for name in ("outcome", "rows", "share", "right"):
            table.add_column(name, justify="left" if name == "outcome" else "right")
        for outcome, count in self.outcomes.most_common():
            table.add_row(outcome, f"{count:,}", f"{count / self.num_rows:.1%}", f"{self.right[outcome]:,}")
        share = self.correct / self.num_rows
        table.add_row("all", f"{self.num_rows:,}", "100.0%", f"{sum(self.right.values()):,}", style="bold")
        console.print(table)
        _say(console, f"right: {share:.2%}")
        if with_expected:
            self._show_agreement(console)
            return
        for shown in self.examples.values():
            for row, verdict in shown:
                _show_row(console, row, verdict, f"judged {_worded(verdict.correct)}")

    def _show_agreement(self, console: Console) -> None:
        num_agreeing = self.num_rows - len(self.differing)
        too_high = sum(verdict.correct > (row.expected or 0.0) for row, verdict in self.differing)
        counts = f"{too_high} judged better than expected, {len(self.differing) - too_high} judged worse"
        share = f"{num_agreeing:,} of {self.num_rows:,} ({num_agreeing / self.num_rows:.2%})"
        _say(console, f"agreement: {share}{f'; {counts}' if self.differing else ''}")
        for row, verdict in self.differing:
            assert row.expected is not None
            difference = f"expected {_worded(row.expected)}, judged {_worded(verdict.correct)}"
            _show_row(console, row, verdict, difference)


def _show_row(console: Console, row: Row, verdict: Verdict, what: str) -> None:
    response = row.response.strip()
    end = f"{'...' if len(response) > MAX_SHOWN else ''}{response[-MAX_SHOWN:]}"
    extracted = "none" if verdict.extracted_answer is None else repr(verdict.extracted_answer)
    answer = f"{row.ground_truth[:MAX_SHOWN]!r}{'...' if len(row.ground_truth) > MAX_SHOWN else ''}"
    _say(console, f"\n{row.place}: {what} ({verdict.outcome.value})")
    for name, shown in (("answer", answer), ("extracted", extracted), ("response", repr(end))):
        _say(console, f"  {name:<10} {shown}")


def _say(console: Console, text: str) -> None:
    """One line, of which no character steers the terminal."""
    console.print(Text("\n".join(map(sanitize, text.split("\n")))), soft_wrap=True)


def _worded(correct: float) -> str:
    return {0.0: "wrong", 1.0: "right"}.get(correct, f"{correct:g}")


def _as_object(row: Row, verdict: Verdict) -> dict[str, Any]:
    judged = {
        "row": row.place,
        "correct": verdict.correct,
        "outcome": verdict.outcome.value,
        "extracted_answer": verdict.extracted_answer,
        "ground_truth": row.ground_truth,
    }
    return judged if row.expected is None else judged | {"expected": row.expected}


def _refuse(error: RecordError) -> None:
    raise error


@contextmanager
def _source(name: str) -> Iterator[str]:
    """The source as it is given; standard input as a file, since readers tell kinds of files by their names."""
    if name != "-":
        yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stdin.jsonl"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield str(path)


def _recipe(name: str | None) -> dict[str, dict[str, Any]]:
    """The settings of a recipe that say how answers are judged."""
    if name is None:
        return {}
    found, known = read_recipe(Path(name)), {f.name for f in fields(RowFormat)}
    data = {key: value for key, value in found.get("data", {}).items() if key in known}
    judging = {section: dict(found[section]) for section in ("verifier", "verifier_pool") if section in found}
    return judging | ({"data": data} if data else {})


def _settings_help() -> str:
    return settings_text(VerifyConfig)
