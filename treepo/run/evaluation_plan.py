"""Plans an evaluation: models, problems and sampling methods, from the options of `treepo eval` and settings."""

import hashlib
import os
import tomllib
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from treepo.config.load import read_recipe, resolve, to_toml
from treepo.config.schema import BUILT_IN_TASK, Config, Settings, is_data_given
from treepo.engine.settings import EngineSettings
from treepo.errors import SettingError
from treepo.evaluate.store import KIND
from treepo.grow.shape import TreeShape
from treepo.model.sources import check_folder
from treepo.run.given_runs import default_settings, runs_among
from treepo.run.run_point import RunPoint
from treepo.run.sampling_specs import SECTIONS, SamplingSpec, parse_sampling
from treepo.utils.imports import make_importable
from treepo.verify.base import Verifier
from treepo.verify.verifiers import FunctionVerifier

TRAINING_SECTIONS = ("reward", "credit", "lora", "loss", "aggregation", "penalties", "optim", "dynamic_sampling")
"""Sections of a recipe that an evaluation does not use, and which must not refuse it."""

NO_VERIFIER = "NoVerifier"

JUDGED_BY_ENVIRONMENT: Settings = {"verifier": {"use": NO_VERIFIER}, "reward": {"correct": 0.0, "environment": 1.0}}
"""What an environment measures by itself; no [reward] is used, but one must not contradict the verifier."""

ANSWER_SECTIONS = ("data", "prompt", "verifier", "verifier_pool", *SECTIONS)
"""Sections whose settings all change answers or verdicts."""

ALL = 10**9


@dataclass(frozen=True)
class Evaluation:
    """What is to be evaluated.

    config: the settings that all sampling methods share; num_problems: how many, from the first one on; out: the folder
    of the answers. runs: the models, by name, that are runs (see `RunPoint`). trust_run_code: run code
    that comes with a run's base model.
    """

    models: tuple[str, ...]
    samplings: tuple[SamplingSpec, ...]
    config: Config
    num_problems: int
    out: Path
    runs: Mapping[str, RunPoint] = field(default_factory=dict)
    trust_run_code: bool = False


def plan_evaluation(options: Namespace, out: Path) -> Evaluation:
    """Put the options of `treepo eval` and settings together; raises SettingError for what cannot work."""
    models = [os.path.normpath(model) if model else "" for model in options.models]
    runs = runs_among(models)
    _check(options, [model for model in models if model not in runs])
    layers = _layers(options, runs)
    samplings = tuple(parse_sampling(text, options.samples, layers) for text in options.sampling)
    config = resolve(*layers, {"tree": {"width": options.samples, "min_width": 1}})
    # Before a model is loaded for nothing.
    config.environment.check()
    models = models or [config.model.path]
    if len(models) > 1 and config.engine.kind != "embedded":
        message = f"{config.engine.kind!r} takes one model at a time; evaluate the others with the same --out"
        raise SettingError("engine.kind", message)
    num_problems = options.problems or _default_num_problems(options.settings.get("eval", {}), config)
    return Evaluation(tuple(models), samplings, config, num_problems, out, runs, options.trust_run_code)


def _default_num_problems(typed: Mapping[str, Any], config: Config) -> int:
    """How many problems without --problems: as many as was typed, or all of datasets. typed: [eval] as it was typed."""
    if "num_samples" in typed:
        raise SettingError("eval.num_samples", "is for training; here --samples says how many", typed["num_samples"])
    # The built-in task has tens of millions of problems; of datasets, a recipe's number is for training.
    if "num_problems" not in typed and config.data.is_given:
        return ALL
    if config.eval.num_problems < 1:
        raise SettingError("eval.num_problems", f"must be within 1..{ALL}", config.eval.num_problems)
    return config.eval.num_problems


def _layers(options: Namespace, runs: Mapping[str, RunPoint]) -> tuple[Settings, ...]:
    """Layers of settings, later ones on top of earlier ones."""
    recipe: Settings = read_recipe(Path(options.recipe)) if options.recipe else {}
    recipe = {section: values for section, values in recipe.items() if section not in TRAINING_SECTIONS}
    asked: Settings = {"data": {"eval": tuple(options.data)}} if options.data else {}
    base = default_settings(runs, _merged(recipe, options.settings, asked), options.trust_run_code)
    given = _merged(base, recipe, options.settings)
    is_environment = bool(given.get("environment", {}).get("factory"))
    if is_environment and given.get("verifier", {}).get("use", NO_VERIFIER) == NO_VERIFIER:
        base = _merged(base, JUDGED_BY_ENVIRONMENT)
    if not options.recipe and not runs and not options.data and not is_data_given(options.settings):
        base = BUILT_IN_TASK
    layers = base, recipe, options.settings, asked
    # Training data is neither asked nor read, unless a part of it is held out.
    layers = (*layers, {"data": {"train": (), "weights": ()}}) if resolve(*layers).data.eval else layers
    if options.temperature is not None:
        layers = (*layers, {"engine": {"temperature": options.temperature}})
    if options.repetition_penalty is not None:
        layers = (*layers, {"eval": {"repetition_penalty": options.repetition_penalty}})
    return (*layers, _longest(options.max_tokens, resolve(*layers).tree)) if options.max_tokens is not None else layers


def _longest(max_tokens: int, tree: TreeShape) -> Settings:
    """Settings of [tree] for answers of at most so many tokens, as deep as they need."""
    depth = max(tree.depth, -(-max_tokens // tree.segment_len))
    return {"tree": {"max_response_len": max_tokens, "depth": depth}}


def _merged(*layers: Settings) -> Settings:
    """All that layers give, by section."""
    sections = {section for layer in layers for section in layer}
    return {name: {key: value for layer in layers for key, value in layer.get(name, {}).items()} for name in sections}


def _check(options: Namespace, models: Sequence[str]) -> None:
    """Raise SettingError for options that cannot work, before anything is loaded."""
    numbers = ("samples", options.samples), ("problems", options.problems), ("--max-tokens", options.max_tokens)
    for name, number in numbers:
        if number is not None and not 1 <= number <= ALL:
            raise SettingError(name, f"must be within 1..{ALL}", number)
    for name, given in (("sampling", options.sampling), ("model", models)):
        if doubled := [one for i, one in enumerate(given) if one in given[:i]]:
            raise SettingError(name, f"{doubled[0]!r} is given twice")
    for name, given, setting in (
        ("MODEL", options.models[:1], "model.path"),
        ("--data", options.data[:1], "data.eval"),
        ("--max-tokens", [options.max_tokens], "tree.max_response_len"),
        ("--temperature", [options.temperature], "engine.temperature"),
        ("--repetition-penalty", [options.repetition_penalty], "eval.repetition_penalty"),
    ):
        section, _, key = setting.partition(".")
        also = options.settings.get(section, {}).get(key)
        if given and given[0] is not None and also is not None:
            raise SettingError(name, f"given twice, as {given[0]!r} and as --{setting} {also!r}")
    for model in models:
        check_folder(model)
    if options.temperature == 0:
        raise SettingError("--temperature", "must be above 0; --sampling greedy takes the likeliest tokens", 0)
    if options.json and (Path(options.json).is_dir() or not Path(options.json).parent.is_dir()):
        raise SettingError("json", f"cannot write to {options.json!r}: it is a folder, or in none that is there")


def about_answers(evaluation: Evaluation) -> str:
    """How answers were sampled, for the head of a table: how many, how long at most, and how tokens were drawn."""
    engine, samplings = evaluation.config.engine, evaluation.samplings
    count = max(sampling.num_samples for sampling in samplings)
    lengths = sorted({sampling.config.tree.max_response_tokens for sampling in samplings})
    parts = [
        f"{count} answer{'s' if count > 1 else ''} per problem",
        f"at most {' or '.join(map(str, lengths))} tokens",
    ]
    if any(sampling.kind != "greedy" for sampling in samplings):
        parts.append(f"temperature {engine.temperature:g}")
    defaults = EngineSettings()
    names = [name for name in ("top_k", "top_p", "min_p") if getattr(engine, name) != getattr(defaults, name)]
    parts += [f"{name} {getattr(engine, name):g}" for name in names]
    if (penalty := evaluation.config.eval.repetition_penalty) != 1:
        parts.append(f"repetition_penalty {penalty:g}")
    return ", ".join(parts)


def answer_settings(evaluation: Evaluation) -> dict[str, Any]:
    """All settings that answers depend on, but for the model and the sampling method, which each answer names."""
    settings = tomllib.loads(to_toml(evaluation.config))
    kept: dict[str, Any] = {KIND: "treepo eval"} | {section: settings[section] for section in ANSWER_SECTIONS}
    del kept["verifier_pool"]["num_workers"]
    if digest := _digest_of_verifier(evaluation.config.verifier):
        kept["verifier"]["code"] = digest
    if evaluation.config.environment.is_given:
        modules = sorted({name.partition(":")[0] for name in evaluation.config.environment.names})
        kept["environment"] = settings["environment"] | {"code": " ".join(map(_digest_of_code, modules))}
        del kept["environment"]["num_workers"]
    kept["train"] = {"autocast": settings["train"]["autocast"]}
    kept["engine"] = {key: settings["engine"][key] for key in ("kind", "temperature", "top_k", "top_p", "min_p")}
    kept["eval"] = {"repetition_penalty": evaluation.config.eval.repetition_penalty}
    kept["model"] = {key: settings["model"][key] for key in ("dtype", "device")}
    return kept | {"seed": evaluation.config.train.seed}


def _digest_of_verifier(verifier: Verifier) -> str:
    """A checksum of the file with the user's own verifier; empty for ours."""
    is_function = isinstance(verifier, FunctionVerifier)
    return _digest_of_code(verifier.function.partition(":")[0] if is_function else type(verifier).__module__)


def _digest_of_code(module: str) -> str:
    """A checksum of the file of a user's own module; empty for ours."""
    if module.partition(".")[0] == "treepo":
        return ""
    make_importable(module)
    try:
        spec = find_spec(module)
    # What importing the packages above it may raise.
    except (ImportError, ValueError):
        return ""
    path = Path(spec.origin) if spec and spec.origin else None
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest() if path and path.is_file() else ""
