"""`treepo eval`: how often models are right, with intervals and cost."""

import logging
import shlex
from argparse import Namespace
from pathlib import Path

from rich.console import Console

from treepo.cli.common import CommandParser, going_on, output_folder, run_settings_help

logger = logging.getLogger(__name__)

ABOUT = """Measure how often models are right on problems: avg@k, pass@k and maj@k with intervals, and what they cost.
The same command with the same --out goes on where it was interrupted. Without MODEL and --data: the built-in task and
its base model."""

SAMPLING = """methods of sampling, which the tables compare: sequential (default), greedy, tree, or tree:KEY=VALUE,...
with other settings of [tree], or of another section that shapes trees as SECTION.KEY=VALUE"""


def make_parser() -> CommandParser:
    """The options of the command."""
    parser = CommandParser("eval", ABOUT, run_settings_help)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="folders or names of models, like --model.path")
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="SET", help="datasets: gsm8k, gsm8k=FILE.jsonl, a file or a folder"
    )
    parser.add_argument("--samples", type=int, default=16, metavar="K", help="answers per problem (default: 16)")
    parser.add_argument("--sampling", nargs="+", default=["sequential"], metavar="METHOD", help=SAMPLING)
    parser.add_argument("--problems", type=int, metavar="N", help="ask the first N problems (default: all)")
    parser.add_argument("--recipe", metavar="RECIPE.toml", help="settings")
    parser.add_argument("--out", metavar="DIR", help="folder that keeps all answers (default: runs/eval-TIME)")
    parser.add_argument("--json", metavar="FILE", help="write all metrics to this file, too")
    return parser


def run(options: Namespace, console: Console) -> None:
    """Let each model answer, then show and keep the metrics of all answers in the folder."""
    from treepo.report.terminal import Terminal

    with Terminal(console).stage("loading PyTorch and transformers"):
        # Here, not for --help.
        from transformers.utils.logging import disable_progress_bar

        from treepo.evaluate.estimates import COLUMNS, EstimateSettings, aggregate
        from treepo.evaluate.results import to_json
        from treepo.evaluate.store import ANSWERS, RESULTS, AnswerStore
        from treepo.evaluate.table import rich_table, text_tables
        from treepo.report.diagnosis import diagnose_result
        from treepo.run.evaluate import answer
        from treepo.run.evaluation_plan import plan_evaluation
        from treepo.utils.io import export_text, writing

    disable_progress_bar()
    out = output_folder(options.out, "eval-")
    evaluation, store = plan_evaluation(options, out), AnswerStore(out)
    where = "" if options.out else f" --out {shlex.quote(str(out))}"
    with going_on(options.command_line + where), store.lock():
        for model in evaluation.models:
            answer(evaluation, model, Terminal(console))
        store.compact()
        seed = evaluation.config.train.seed
        found = aggregate(store.read(COLUMNS), store.costs(), EstimateSettings(seed=seed))
        store.write_results(to_json(found))
        if options.json:
            with writing(Path(options.json), "the metrics there; all answers are kept", "json"):
                export_text(Path(options.json), to_json(found))
    for result in found:
        if finding := diagnose_result(result.overall):
            logger.warning("%s, %s: %s", result.model, result.setting, finding)
    for table in text_tables(found):
        console.print(rich_table(table))
    logger.info("All answers are in %s, all metrics in %s beside it.", out / ANSWERS, RESULTS)
