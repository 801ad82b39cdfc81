"""`treepo eval`: how often models are right, with intervals and cost."""

import logging
import shlex
from argparse import Namespace
from pathlib import Path

from rich.console import Console

from treepo.cli.common import CommandParser, output_folder, run_settings_help
from treepo.errors import named_as_typed

logger = logging.getLogger(__name__)

ABOUT = """Measure how often models are right on problems: avg@k, pass@k and maj@k with intervals, and what they cost.
MODEL may be the folder of a run: then its final model is asked or, where there is none, that of its last checkpoint,
with the run's prompts, verifier and problems unless others are given. RUN@STEP is the model of a checkpoint.
The same command with the same --out goes on where it was interrupted. Without MODEL and --data: the built-in task and
its base model."""

SAMPLING = """methods of sampling, which the tables compare: sequential (default), greedy, tree, or tree:KEY=VALUE,...
with other settings of [tree], or of another section that shapes trees as SECTION.KEY=VALUE"""


def make_parser() -> CommandParser:
    """The options of the command."""
    parser = CommandParser("eval", ABOUT, run_settings_help)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="folders or names of models, or runs")
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="SET", help="datasets: gsm8k, gsm8k=FILE.jsonl, a file or a folder"
    )
    parser.add_argument("--samples", type=int, default=16, metavar="K", help="answers per problem (default: 16)")
    parser.add_argument("--sampling", nargs="+", default=["sequential"], metavar="METHOD", help=SAMPLING)
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="longest answer (default: as [tree] says, or the run that is asked)"
    )
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="sampling temperature (default: 1, or that of the run)"
    )
    parser.add_argument(
        "--repetition-penalty",
        type=float,
        metavar="P",
        help="make tokens of the prompt and the answer so far less likely (default: 1, or that of the run)",
    )
    parser.add_argument("--problems", type=int, metavar="N", help="ask the first N problems (default: all)")
    parser.add_argument("--recipe", metavar="RECIPE.toml", help="settings")
    parser.add_argument("--out", metavar="DIR", help="folder that keeps all answers (default: runs/eval-TIME)")
    parser.add_argument("--json", metavar="FILE", help="write all metrics to this file, too")
    parser.add_argument("--verbose", action="store_true", help="show the tables of all metrics")
    parser.add_argument(
        "--trust-run-code", action="store_true", help="run code that a run's settings name, such as its verifier"
    )
    return parser


def run(options: Namespace, console: Console) -> None:
    """Let each model answer, then show and keep the metrics of all answers in the folder."""
    from treepo.report.terminal import Terminal
    from treepo.utils.io import going_on

    with Terminal(console).stage("loading PyTorch and transformers"):
        # Here, not for --help.
        from transformers.utils.logging import disable_progress_bar

        from treepo.evaluate.estimates import COLUMNS, EstimateSettings, aggregate
        from treepo.evaluate.results import to_json
        from treepo.evaluate.store import ANSWERS, RESULTS, AnswerStore
        from treepo.evaluate.table import rich_table, summary_table, text_tables
        from treepo.report.diagnosis import diagnose_result
        from treepo.run.evaluate import answer
        from treepo.run.evaluation_plan import about_answers, plan_evaluation
        from treepo.utils.io import export_text, writing

    disable_progress_bar()
    out = output_folder(options.out, "eval-")
    with named_as_typed(_typed(options)):
        evaluation, store = plan_evaluation(options, out), AnswerStore(out)
    where = "" if options.out else f" --out {shlex.quote(str(out))}"
    with going_on(options.command_line + where), named_as_typed(_typed(options)), store.lock():
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
    tables = [summary_table(found, about_answers(evaluation)), *(text_tables(found) if options.verbose else [])]
    for table in tables:
        console.print(rich_table(table))
    more = "" if options.verbose else "; --verbose shows them"
    logger.info("All answers are in %s, all metrics in %s beside it%s.", out / ANSWERS, RESULTS, more)


def _typed(options: Namespace) -> dict[str, str]:
    """The options that were given in place of settings, by these."""
    given = {
        "model.path": ("MODEL", options.models),
        "data.eval": ("--data", options.data),
        "tree": ("--max-tokens", options.max_tokens),
        "engine.temperature": ("--temperature", options.temperature),
        "eval.repetition_penalty": ("--repetition-penalty", options.repetition_penalty),
    }
    return {setting: option for setting, (option, value) in given.items() if value not in (None, [])}
