"""What `treepo --help` says: usage, and every setting with its default and its docstring."""

import dataclasses
from collections.abc import Iterator
from typing import Any

USAGE = """treepo train [RECIPE.toml] [--section.key VALUE ...] [--out DIR]

    Post-train a model with trees. Without a recipe and a file of problems: the built-in task on this machine.

treepo train --resume DIR [--section.key VALUE ...]

    Go on with the run in DIR from its last checkpoint, as if it had never stopped, with its settings. Those that may
    differ are listed in docs/runs.md.

treepo sample [MODEL] --prompt TEXT [--recipe RECIPE.toml] [--section.key VALUE ...] [--out FILE.parquet]

    Grow one tree and show it. MODEL is a folder or a name, like --model.path. Without it: the built-in task's base
    model, on a problem such as 71a-3b-3c-5d-6: or, without --prompt, on the first one that it would be trained on.

treepo eval [MODEL ...] [--data SET ...] [--samples K] [--sampling WAY ...] [--problems N] [--recipe RECIPE.toml]
            [--section.key VALUE ...] [--out DIR] [--json FILE]

    How often models are right on the problems of the named sets, N or all of them: avg@k, pass@k and maj@k with
    intervals, and what it cost. A SET is a file, a folder or a set of the hub: gsm8k, gsm8k=FILE.jsonl. A WAY is
    sequential, greedy, tree, or tree:KEY=VALUE,... with other settings of [tree], or of what else grows trees as
    SECTION.KEY; several stand in one table. DIR keeps all answers; the same command with the same DIR goes on where it
    was interrupted. Without MODEL and SET: the built-in task and its base model.

treepo report PATH... [--out FILE.html] [--own-code]

    Write one HTML file that shows runs, several one over the other, and opens from disk without a network: curves,
    settings, trees token by token. A PATH is the folder of a run, of an evaluation or of a benchmark, or one's JSON
    file. Without --out: report.html in the first folder. --own-code: import the module that a run's `credit.use` names.

treepo bench rollout [MODEL] [--section.key VALUE ...] [--out DIR]

    Measure trees against sequential sampling and a plain transformers loop, side by side. Without MODEL one of random
    weights is measured. DIR gets rollout.json and rollout.png. `treepo bench --help` lists its settings.

treepo bench update [MODEL] [--section.key VALUE ...] [--out DIR]

    Measure one optimiser update on trees: each shared token forwarded once, against every trajectory on its own with
    padding and without. Without MODEL one of random weights is measured, or the built-in task's base model on trees
    that it grew. DIR gets update.json and update.png. `treepo bench --help` lists its settings.

treepo watch RUN_DIR [--page [--port PORT]]

    Show a run as it goes on, from before its first step to its last: step and time left, last figures, curves, phases
    of a step. --page: its report instead, kept up to date, on a page that only this machine's browser can open.

"""

SETTINGS = "Every setting below can stand in the recipe and on the command line; the command line wins."
BENCH_SETTINGS = "Every setting below can stand on the command line of `treepo bench {}`."


MEASURABLE = ("rollout", "update")
"""By `treepo bench`."""


def measurable(what: str) -> tuple[Any, Any, Any]:
    """Of what `treepo bench` measures: its settings, the module that does it and the one that tells."""
    if what == "rollout":
        from treepo.bench import rollout
        from treepo.bench import rollout_report as report
        from treepo.bench.settings import RolloutBenchConfig

        return RolloutBenchConfig, rollout, report
    from treepo.bench import update as bench
    from treepo.bench import update_report as report
    from treepo.bench.settings import UpdateBenchConfig

    return UpdateBenchConfig, bench, report


def help_text(command: str | None) -> str:
    """Usage, and every setting that a command has with its default and its docstring."""
    if command == "bench":
        parts = [(BENCH_SETTINGS.format(what), measurable(what)[0]) for what in MEASURABLE]
    else:
        from treepo.config.schema import Config

        parts = [(SETTINGS, Config)]
    return USAGE + "\n\n".join("\n".join([about, *_settings(config)]) for about, config in parts)


def setting_docs(section: type) -> dict[str, str]:
    """What the docstrings of a dataclass's fields say, of those it inherits too."""
    from docstring_parser import parse_from_object

    classes = [cls for cls in section.__mro__ if dataclasses.is_dataclass(cls)]
    return {p.arg_name: p.description for cls in classes for p in parse_from_object(cls).params if p.description}


def _settings(config: Any) -> Iterator[str]:
    """Lines that list every setting."""
    from treepo.config.load import is_exchangeable

    for section in dataclasses.fields(config):
        default: Any = section.default
        docs = setting_docs(type(default))
        yield f"[{section.name}]  {type(default).__name__}"
        if is_exchangeable(section):
            yield f"  --{section.name}.use {type(default).__name__!r}"
            yield "      The class that does it: a name, or module:Class for one's own."
        for setting in dataclasses.fields(type(default)):
            value = getattr(default, setting.name)
            yield f"  --{section.name}.{setting.name} {value!r}"
            yield f"      {' '.join((docs.get(setting.name) or '').split())}"
