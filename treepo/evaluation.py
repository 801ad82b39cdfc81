"""`treepo eval`: models answer problems in several ways; the answers are kept, and tables made of them."""

import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from treepo.build import build_policy, engine_for
from treepo.build_engine import check_align, sampling_of
from treepo.build_task import build_task
from treepo.config import read_recipe, resolve, to_toml
from treepo.engine import Engine
from treepo.evaluate import AnswerStore, Cost, EstimateSettings, ProblemKey, grow_in_parts, judge, results
from treepo.evaluate.results import COLUMNS, Result
from treepo.evaluate.table import rich_table, text_tables, to_json
from treepo.grow import TreeSampler
from treepo.model.lora import LoraSettings
from treepo.model.policy import Policy
from treepo.report.terminal import Terminal
from treepo.seeds import derive_seed
from treepo.settings import BUILT_IN_TASK, Config, Settings, is_data_given
from treepo.task.checked import CheckedTask
from treepo.task.problem import Problem, Task
from treepo.ways import Way, read_way

BASE_MODEL = "base model"
"""What the built-in task's model is called in tables."""

ANSWER_SECTIONS = ("data", "prompt", "checker", "checking", "initial_fork", "branching", "fallback", "stopping", "tree")
"""Sections of which answers and verdicts depend on everything."""

ALL = 10**9


@dataclass(frozen=True)
class Evaluation:
    """What is to be evaluated.

    config: the settings that all ways share; num_problems: the first ones; out: the folder of the answers; json: where
    a copy of the figures goes.
    """

    models: tuple[str, ...]
    ways: tuple[Way, ...]
    config: Config
    num_problems: int
    out: Path
    json: Path | None


def plan(
    models: Sequence[str],
    data: Sequence[str],
    num_samples: int,
    sampling: Sequence[str],
    num_problems: int | None,
    recipe: str | None,
    overrides: Settings,
    out: Path,
    json: str | None,
) -> Evaluation:
    """Settings and arguments put together; raises ValueError naming what cannot work."""
    if num_samples < 1:
        raise ValueError(f"samples must be at least 1, got {num_samples}")
    if num_problems is not None and num_problems < 1:
        raise ValueError(f"problems must be at least 1, got {num_problems}")
    for name, given in (("sampling", sampling), ("model", models)):
        if doubled := [one for i, one in enumerate(given) if one in given[:i]]:
            raise ValueError(f"{name}: {doubled[0]!r} is given twice")
    base: Settings = read_recipe(Path(recipe)) if recipe else {}
    if not recipe and not data and not is_data_given(overrides):
        base = BUILT_IN_TASK
    asked: Settings = {"data": {"held_out": tuple(data)}} if data else {}
    layers = base, overrides, asked
    if resolve(*layers).data.held_out:
        # What is trained on is neither asked nor read.
        layers = *layers, {"data": {"train": (), "weights": ()}}
    ways = tuple(read_way(text, num_samples, layers) for text in sampling)
    config = resolve(*layers, {"tree": {"width": num_samples}})
    if not models:
        models = (config.model.path,)
    if len(models) > 1 and config.engine.kind != "embedded":
        raise ValueError(
            f"engine.kind: {config.engine.kind!r} takes one model at a time; evaluate the others with the same --out"
        )
    return Evaluation(tuple(models), ways, config, num_problems or ALL, out, Path(json) if json else None)


@dataclass(frozen=True)
class Prepared:
    """One model that is about to answer. name: what it is called; config: the settings it was built with."""

    name: str
    config: Config
    ways: tuple[Way, ...]
    policy: Policy
    engine: Engine
    task: Task
    problems: list[Problem]
    store: AnswerStore

    def close(self) -> None:
        """End the processes that check answers."""
        if isinstance(self.task, CheckedTask):
            self.task.close()


def prepare(evaluation: Evaluation, model: str, terminal: Terminal) -> Prepared:
    """Claim the folder, build the model's engine and read the problems; raises ValueError naming what cannot work."""
    store = AnswerStore(evaluation.out)
    store.claim(_answer_settings(evaluation))
    _check_weights(evaluation.out / "models.json", model)
    longest = max(evaluation.ways, key=lambda way: way.config.tree.response_limit).config
    # Adapters that nothing has trained yet change nothing.
    config = replace(longest, model=replace(longest.model, path=model), lora=LoraSettings())
    with terminal.bar("making the base model") as report:
        policy = build_policy(config, terminal.say, report)
    for way in evaluation.ways:
        if config.engine.kind == "vllm":
            check_align("tree.align", way.config.tree.align, config.vllm.block_size_on(policy.model.device.type))
    engine = engine_for(config, policy)
    task = build_task(config, policy, engine.longest, terminal.say)
    problems = task.held_out_problems(evaluation.num_problems)
    ready = Prepared(model or BASE_MODEL, config, evaluation.ways, policy, engine, task, problems, store)
    if not problems:
        ready.close()
        raise ValueError("data.held_out: no problem to ask")
    return ready


def answer(ready: Prepared, terminal: Terminal) -> None:
    """Ask the model, in all ways, what it has not been asked yet; an interruption loses the trees under way."""
    for way in ready.ways:
        done = ready.store.done()
        asked = [p for p in ready.problems if ProblemKey(ready.name, way.label, p.source, p.id) not in done]
        if len(asked) < len(ready.problems):
            num_done = len(ready.problems) - len(asked)
            terminal.say(
                f"{ready.name}, {way.label}: {num_done} of {len(ready.problems)} problems were answered before"
            )
        _ask(ready, way, asked, terminal)


def _ask(ready: Prepared, way: Way, problems: Sequence[Problem], terminal: Terminal) -> None:
    """Grow, judge and keep, part by part."""
    decode, engine, accelerators = ready.policy.decode, ready.engine, num_accelerators(ready.config)
    sampler = TreeSampler(engine, way.rules(decode), way.sampling(sampling_of(ready.config.engine)))
    parts = grow_in_parts(sampler, problems, derive_seed(ready.config.train.seed, "eval"))
    num_done, right, counters, start = 0, 0.0, engine.counters, perf_counter()
    with terminal.bar(f"{Path(ready.name).name}, {way.label}") as report:
        for part in parts:
            wall_s, used = perf_counter() - start, engine.counters - counters
            counters = engine.counters
            answered = judge(ready.task, part, decode)
            cost = Cost(used.num_decoded, used.num_prefilled, wall_s, wall_s * accelerators)
            ready.store.append([r for one in answered for r in one.records(ready.name, way.label)], cost)
            num_done += len(part)
            right += sum(float(np.mean([v.correct for v in one.verdicts])) for one in answered)
            report(num_done, len(problems), right / num_done)
            start = perf_counter()


def conclude(evaluation: Evaluation, terminal: Terminal) -> list[Result]:
    """Figures of all answers in the folder, shown and kept; raises ValueError for what cannot be written."""
    store = AnswerStore(evaluation.out)
    store.compact()
    found = results(store.read(COLUMNS), store.costs(), EstimateSettings(seed=evaluation.config.train.seed))
    for path in (evaluation.out / "results.json", evaluation.json):
        if path is not None:
            try:
                path.write_text(to_json(found), encoding="utf-8")
            except OSError as error:
                raise ValueError(f"json: cannot write to {str(path)!r}: {error.strerror}") from error
    for table in text_tables(found):
        terminal.console.print(rich_table(table))
    terminal.say(f"All answers are in {evaluation.out / 'answers.parquet'}, all figures in results.json beside it.")
    return found


def num_accelerators(config: Config) -> int:
    """Devices that decode: one beside the CPU; of servers one each; none on the CPU."""
    if config.engine.kind == "servers":
        return len(config.servers.urls)
    return int(config.model.device != "cpu")


def _answer_settings(evaluation: Evaluation) -> dict[str, Any]:
    """All that answers depend on but the model and the way, which stand beside each."""
    settings = tomllib.loads(to_toml(evaluation.config))
    kept = {section: settings[section] for section in ANSWER_SECTIONS}
    kept["engine"] = {key: settings["engine"][key] for key in ("kind", "temperature", "top_k", "top_p", "min_p")}
    kept["model"] = {key: settings["model"][key] for key in ("dtype", "device")}
    return kept | {"seed": evaluation.config.train.seed}


def _check_weights(path: Path, model: str) -> None:
    """Answers of a folder whose weights have changed since would be mixed with new ones; raises ValueError."""
    files = sorted(Path(model).glob("*.safetensors")) if model else []
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    mark = hashlib.blake2b(repr(stats).encode(), digest_size=8).hexdigest()
    marks = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if marks.setdefault(model, mark) != mark:
        raise ValueError(f"out: {str(path.parent)!r} holds answers of {model!r} from before its weights changed")
    path.write_text(json.dumps(marks, indent=1) + "\n", encoding="utf-8")
