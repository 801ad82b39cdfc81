"""`treepo eval`: models answer problems in several ways; the answers are kept, and tables made of them."""

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from treepo.config.load import to_toml
from treepo.config.schema import Config
from treepo.data.problem import Problem, Task
from treepo.engine.base import Engine
from treepo.evaluate.answering import Meter, check_asked, grow_in_parts, problem_key, verify_answers
from treepo.evaluate.records import ProblemKey
from treepo.evaluate.results import COLUMNS, EstimateSettings, Result, results
from treepo.evaluate.store import KIND, AnswerStore
from treepo.evaluate.table import rich_table, text_tables, to_json
from treepo.grow.sampler import TreeSampler
from treepo.model.policy import Policy
from treepo.model.settings import LoraSettings
from treepo.report.terminal import Terminal
from treepo.run.build import build_policy, engine_for
from treepo.run.engine import check_align
from treepo.run.evaluation_plan import Evaluation, Way
from treepo.run.task import build_task
from treepo.utils.rng import derive_seed
from treepo.verify.base import Verifier
from treepo.verify.task import VerifiedTask
from treepo.verify.verifiers import FunctionVerifier

BASE_MODEL = "base model"
"""What the built-in task's model is called in tables."""

ANSWER_SECTIONS = (
    "data",
    "prompt",
    "verifier",
    "checking",
    "initial_fork",
    "branching",
    "fallback",
    "stopping",
    "tree",
)
"""Sections of which answers and verdicts depend on everything."""


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
        if isinstance(self.task, VerifiedTask):
            self.task.close()


def prepare(evaluation: Evaluation, model: str, terminal: Terminal) -> Prepared:
    """Claim the folder, build the model's engine and read the problems; raises ValueError naming what cannot work."""
    store, name = AnswerStore(evaluation.out), model or BASE_MODEL
    store.claim(_answer_settings(evaluation))
    # Before a large model is loaded for nothing.
    answered = {problem_key(key.source, key.problem) for key in store.done() if key.model == name}
    longest = max(evaluation.ways, key=lambda way: way.config.tree.response_limit).config
    # Adapters that nothing has trained yet change nothing.
    config = replace(longest, model=replace(longest.model, path=model), lora=LoraSettings())
    with terminal.bar("making the base model") as report:
        policy = build_policy(config, terminal.say, report)
    for way in evaluation.ways:
        if config.engine.kind == "vllm":
            check_align("tree.align", way.config.tree.align, config.vllm.block_size_on(policy.model.device.type))
    engine = engine_for(config, policy)
    task = build_task(config, policy, engine.max_model_len, terminal.say)
    problems = task.eval_problems(evaluation.num_problems)
    ready = Prepared(name, config, evaluation.ways, policy, engine, task, problems, store)
    try:
        if not problems:
            raise ValueError("data.eval: no problem to ask")
        check_asked(evaluation.out / "asked.json", name, policy.model.state_dict(), problems, answered)
    except ValueError:
        ready.close()
        raise
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
    sampler = TreeSampler(engine, way.rules(decode), way.sampling(ready.config.engine.sampling_params))
    parts = grow_in_parts(sampler, problems, derive_seed(ready.config.train.seed, "eval"))
    meter, num_done, right, start = Meter(engine, accelerators), 0, 0.0, perf_counter()
    with terminal.bar(f"{Path(ready.name).name}, {way.label}") as report:
        for part in parts:
            cost = meter.charge([tree for _, tree in part], perf_counter() - start)
            answered = verify_answers(ready.task, part, decode)
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
    kept: dict[str, Any] = {KIND: "treepo eval"}
    kept |= {section: settings[section] for section in ANSWER_SECTIONS}
    del kept["checking"]["num_workers"]
    if digest := _digest_of_code(evaluation.config.verifier):
        kept["verifier"]["code"] = digest
    kept["train"] = {"autocast": settings["train"]["autocast"]}
    kept["engine"] = {key: settings["engine"][key] for key in ("kind", "temperature", "top_k", "top_p", "min_p")}
    kept["model"] = {key: settings["model"][key] for key in ("dtype", "device")}
    return kept | {"seed": evaluation.config.train.seed}


def _digest_of_code(verifier: Verifier) -> str:
    """A mark of the file that a verifier of one's own is in; empty for ours."""
    module = (
        verifier.function.partition(":")[0] if isinstance(verifier, FunctionVerifier) else type(verifier).__module__
    )
    if module.partition(".")[0] == "treepo":
        return ""
    try:
        spec = find_spec(module)
    # What importing the packages above it may raise.
    except (ImportError, ValueError):
        return ""
    path = Path(spec.origin) if spec and spec.origin else None
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest() if path and path.is_file() else ""
