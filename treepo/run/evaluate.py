"""Evaluating a model: it answers problems by several sampling methods, and all answers are kept."""

import logging
from collections.abc import Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np

from treepo.errors import SettingError
from treepo.evaluate.answering import Meter, answer_records, grow_in_parts
from treepo.evaluate.fingerprint import check_fingerprint, problem_key
from treepo.evaluate.records import ProblemKey
from treepo.evaluate.store import AnswerStore
from treepo.grow.sampler import TreeSampler
from treepo.model.settings import LoraSettings
from treepo.report.terminal import Terminal
from treepo.run.engine import check_vllm_settings
from treepo.run.evaluation_plan import Evaluation, answer_settings
from treepo.run.export import model_folder
from treepo.run.parts import build_policy, close_parts, engine_for
from treepo.run.task import build_task
from treepo.utils.numeric import derive_seed
from treepo.verify.rewards import verify_trees

logger = logging.getLogger(__name__)

BASE_MODEL = "base model"
"""What tables call the built-in task's model."""


def answer(evaluation: Evaluation, model: str, terminal: Terminal) -> None:
    """Ask one model, by all sampling methods, what it has not answered yet; nothing of it is left in memory.

    An interruption loses the trees that are being grown. The folder must be locked. Raises SettingError for what
    cannot work, before anything is asked.
    """
    store = AnswerStore(evaluation.out)
    store.claim(answer_settings(evaluation))
    # Before a large model is loaded for nothing.
    answered = {problem_key(key.dataset, key.problem) for key in store.done() if key.model == (model or BASE_MODEL)}
    path: AbstractContextManager[str] = nullcontext(model)
    if (point := evaluation.runs.get(model)) is not None:
        path = model_folder(point, evaluation.out, terminal, evaluation.trust_run_code)
    with path as folder:
        _answer(evaluation, model or BASE_MODEL, folder, answered, terminal)


def _answer(evaluation: Evaluation, name: str, path: str, answered: Set[str], terminal: Terminal) -> None:
    """Ask the model in a folder. name: what it is called; answered: the keys of problems that it was asked before."""
    store = AnswerStore(evaluation.out)
    longest = max(evaluation.samplings, key=lambda sampling: sampling.config.tree.max_response_tokens).config
    # Adapters that nothing has trained yet change nothing.
    config = replace(longest, model=replace(longest.model, path=path), lora=LoraSettings())
    with terminal.stage("loading the model"), terminal.progress("making the base model") as progress:
        policy = build_policy(config, progress)
    if config.engine.kind == "vllm":
        for sampling in evaluation.samplings:
            check_vllm_settings("tree.align", sampling.config.tree.align, config.vllm, policy.model.device.type)
    is_served = config.engine.kind == "servers"
    num_accelerators = len(config.servers.urls) if is_served else int(policy.model.device.type != "cpu")
    engine, task = engine_for(config, policy), None
    try:
        task = build_task(config, policy, engine.max_model_len)
        problems = task.eval_problems(evaluation.num_problems)
        if not problems:
            raise SettingError("data.eval", "no problem to ask")
        check_fingerprint(evaluation.out, name, policy.model.state_dict(), problems, answered)
        message = "Answers are kept in %s; after an interruption the same command with --out goes on."
        logger.info(message, evaluation.out)
        for sampling in evaluation.samplings:
            done, label = store.done(), sampling.label
            missing = [p for p in problems if ProblemKey(name, label, p.dataset, p.id) not in done]
            if num_done := len(problems) - len(missing):
                logger.info("%s, %s: %d of %d problems were answered before", name, label, num_done, len(problems))
            rules = sampling.rules(policy.decode, task.answers, sampling.turns(policy))
            sampler = TreeSampler(engine, rules, sampling.sampling(config.engine.sampling_params))
            parts = grow_in_parts(sampler, missing, derive_seed(config.train.seed, "eval"))
            meter, num_done, correct, start = Meter(engine, num_accelerators), 0, 0.0, perf_counter()
            with terminal.progress(f"{Path(name).name}, {label}") as progress:
                for asked, trees in parts:
                    cost = meter.charge(trees, perf_counter() - start)
                    verified = verify_trees(task, asked, trees, policy.decode)
                    records = answer_records(task, verified, policy.decode, model=name, setting=label)
                    store.append(records, cost)
                    num_done += len(trees)
                    correct += len(trees) * float(np.mean([record.correct for record in records]))
                    progress(num_done, len(missing), correct / num_done)
                    start = perf_counter()
    finally:
        close_parts(engine, task)
