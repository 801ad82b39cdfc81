"""`treepo report`: writes the page of runs, evaluations and benchmarks."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from treepo.cli.common import CommandParser
from treepo.credit.base import Estimator
from treepo.credit.subgroup import TreePO
from treepo.errors import SettingError
from treepo.utils.text import error_line, sanitize


def make_parser() -> CommandParser:
    """The options of the command."""
    parser = CommandParser(
        "report",
        "Write one HTML file about runs, evaluations and benchmarks: curves, trees token by token, settings, charts.\n"
        "It opens from disk and needs no network.",
    )
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="folder of a run, an evaluation or a benchmark, or its JSON file"
    )
    parser.add_argument("--out", metavar="FILE.html", help="file to write (default: report.html in the first folder)")
    parser.add_argument(
        "--trust-run-code",
        action="store_true",
        help="import the module that credit.use names in a run's settings, which runs its code",
    )
    return parser


def run(options: Namespace, console: Console) -> None:
    """Write the page and print where it is. Raises SettingError naming the path that cannot be read or written."""
    # torch and transformers load here, not for --help.
    from treepo.config.defaults import changed_settings
    from treepo.report.page.report import REPORT_NAME, page_html, payload_of
    from treepo.report.terminal import Terminal
    from treepo.utils.io import export_text, replace_text, writing

    if options.settings:
        raise SettingError(next(iter(options.settings)), "a report has no settings")
    if not options.paths:
        raise SettingError("report", "no folder given")
    paths = [Path(path) for path in options.paths]

    def estimator_of(settings: Mapping[str, Any]) -> tuple[Estimator | None, str]:
        return find_estimator(settings, options.trust_run_code)

    page = page_html(payload_of(paths, datetime.now(UTC), estimator_of, changed_settings))
    folder = paths[0] if paths[0].is_dir() else paths[0].parent
    out = Path(options.out) if options.out else folder / REPORT_NAME
    with writing(out, "the report", "out"):
        # In somebody's run folder that name may stand for anything; what the user gives may be a pipe.
        (export_text if options.out else replace_text)(out, page)
    Terminal(console).say(f"The report is {out} ({len(page.encode()) / 1e6:.1f} MB).")


@dataclass(frozen=True)
class CreditSection:
    """The only section of a run's settings that a report builds."""

    credit: Estimator = TreePO()


def find_estimator(settings: Mapping[str, Any], trust_run_code: bool = False) -> tuple[Estimator | None, str]:
    """(the estimator of a run's section `credit`, or None, a note on why there is none or "").

    trust_run_code: import the module that the section names, and so run code that whoever made the folder has chosen.
    """
    from treepo.config.load import resolve_as

    use = str(settings.get("use", ""))
    if ":" in use and not trust_run_code:
        return None, f"no components of advantages: `treepo report --trust-run-code` imports {sanitize(use)}"
    try:
        return (resolve_as(CreditSection, {"credit": settings}).credit if settings else None), ""
    except (Exception, SystemExit) as error:  # noqa: BLE001 - importing a module may raise anything
        return None, f"no components of advantages: {error_line(error)}"
