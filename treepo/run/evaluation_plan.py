"""Plans an evaluation: models, problems, and sampling methods as `treepo eval --sampling` names them."""

import hashlib
import os
import tomllib
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from treepo.config.load import read_recipe, resolve, to_toml
from treepo.config.schema import BUILT_IN_TASK, Config, Settings, is_data_given
from treepo.data.problem import AnswerFormat, Decode
from treepo.engine.base import SamplingParams
from treepo.errors import SettingError
from treepo.evaluate.store import KIND
from treepo.grow.builder import GrowthRules
from treepo.model.sources import check_folder
from treepo.run.parts import growth_rules
from treepo.utils.imports import make_importable
from treepo.verify.base import Verifier
from treepo.verify.verifiers import FunctionVerifier

KINDS = ("sequential", "tree", "greedy")
SECTIONS = ("tree", "initial_fork", "branching", "fallback", "stopping")
"""Sections that a sampling method may set for itself."""

TRAINING_SECTIONS = ("reward", "credit", "lora", "loss", "aggregation", "penalties", "optim", "dynamic_sampling")
"""Sections of a recipe that an evaluation does not use, and which must not refuse it."""

ANSWER_SECTIONS = ("data", "prompt", "verifier", "verifier_pool", *SECTIONS)
"""Sections whose settings all change answers or verdicts."""

ALL = 10**9


@dataclass(frozen=True)
class SamplingSpec:
    """One method of sampling. label: as it was written; config: the settings of its trees, as wide as the samples."""

    label: str
    kind: str
    config: Config

    @property
    def num_samples(self) -> int:
        """Answers per problem."""
        return 1 if self.kind == "greedy" else self.config.tree.width

    def rules(self, decode: Decode, answers: AnswerFormat) -> GrowthRules:
        """The rules of its trees; without forks they are stars."""
        if self.kind == "tree":
            return growth_rules(self.config, decode, answers)
        return GrowthRules.star(self.num_samples, self.config.tree.max_response_tokens, decode, answers)

    def sampling(self, settings: SamplingParams) -> SamplingParams:
        """How its tokens are sampled: as the engine's settings say, or greedily."""
        return SamplingParams(0.0) if self.kind == "greedy" else settings


def parse_sampling(text: str, num_samples: int, layers: tuple[Settings, ...]) -> SamplingSpec:
    """Read sequential, greedy, tree, or tree:KEY=VALUE,... with other settings of [tree], or of another section of
    SECTIONS as SECTION.KEY.

    layers: the run's settings. Raises SettingError for `sampling` if the text is none of these.
    """
    if not text.isprintable():
        # It is a label in tables and files, and a line break in a value would begin further settings.
        raise SettingError("sampling", f"{text!r} holds a character that is not printable")
    kind, colon, values = text.partition(":")
    if kind not in KINDS or (colon and kind != "tree"):
        raise SettingError("sampling", f"{text!r} is none of sequential, greedy, tree, tree:KEY=VALUE,...")
    own = _settings(text, values) if colon else {}
    # A fewest number of leaves is for trees with a token budget.
    size = {"width": num_samples} | ({} if kind == "tree" else {"min_width": 1})
    try:
        return SamplingSpec(text, kind, resolve(*layers, own, {"tree": size}))
    except SettingError as error:
        if not own:
            raise
        raise SettingError("sampling", f"{text!r}: {error}") from error


def _settings(text: str, values: str) -> Settings:
    own: dict[str, dict[str, Any]] = {}
    for part in values.split(","):
        name, equals, value = part.partition("=")
        section, _, key = name.rpartition(".")
        section = section or "tree"
        if not equals or key in own.get(section, {}) or name in {"width", "tree.width"}:
            message = f"{text!r} must be tree:KEY=VALUE,... with settings of [tree] other than width"
            raise SettingError("sampling", message)
        if section not in SECTIONS:
            raise SettingError("sampling", f"{text!r}: {name!r} is no setting of {', '.join(SECTIONS)}")
        try:
            own.setdefault(section, {})[key] = tomllib.loads(f"value = {value}")["value"]
        # Deep nesting is a RecursionError of the parser, a number of thousands of digits a plain ValueError.
        except (RecursionError, ValueError) as error:
            raise SettingError("sampling", f"{text!r}: {value!r} is no value of {name!r}") from error
    return own


@dataclass(frozen=True)
class Evaluation:
    """What is to be evaluated.

    config: the settings that all sampling methods share; num_problems: how many, from the first one on; out: the folder
    of the answers.
    """

    models: tuple[str, ...]
    samplings: tuple[SamplingSpec, ...]
    config: Config
    num_problems: int
    out: Path


def plan_evaluation(options: Namespace, out: Path) -> Evaluation:
    """Put the options of `treepo eval` and settings together; raises SettingError for what cannot work."""
    models = [os.path.normpath(model) if model else "" for model in options.models]
    _check(options, models)
    layers = _layers(options)
    samplings = tuple(parse_sampling(text, options.samples, layers) for text in options.sampling)
    config = resolve(*layers, {"tree": {"width": options.samples, "min_width": 1}})
    models = models or [config.model.path]
    if len(models) > 1 and config.engine.kind != "embedded":
        message = f"{config.engine.kind!r} takes one model at a time; evaluate the others with the same --out"
        raise SettingError("engine.kind", message)
    # The built-in task has tens of millions of problems.
    most = ALL if config.data.is_given else config.eval.num_problems
    return Evaluation(tuple(models), samplings, config, options.problems or most, out)


def _layers(options: Namespace) -> tuple[Settings, ...]:
    """Layers of settings, later ones on top of earlier ones."""
    base: Settings = read_recipe(Path(options.recipe)) if options.recipe else {}
    base = {section: values for section, values in base.items() if section not in TRAINING_SECTIONS}
    if not options.recipe and not options.data and not is_data_given(options.settings):
        base = BUILT_IN_TASK
    asked: Settings = {"data": {"eval": tuple(options.data)}} if options.data else {}
    layers = base, options.settings, asked
    # Training data is neither asked nor read, unless a part of it is held out.
    return (*layers, {"data": {"train": (), "weights": ()}}) if resolve(*layers).data.eval else layers


def _check(options: Namespace, models: Sequence[str]) -> None:
    """Raise SettingError for options that cannot work, before anything is loaded."""
    for name, number in (("samples", options.samples), ("problems", options.problems)):
        if number is not None and not 1 <= number <= ALL:
            raise SettingError(name, f"must be within 1..{ALL}", number)
    for name, given in (("sampling", options.sampling), ("model", models)):
        if doubled := [one for i, one in enumerate(given) if one in given[:i]]:
            raise SettingError(name, f"{doubled[0]!r} is given twice")
    for name, given, section, key in (("MODEL", models, "model", "path"), ("--data", options.data, "data", "eval")):
        also = options.settings.get(section, {}).get(key)
        if given and also is not None:
            raise SettingError(f"{section}.{key}", f"given twice, as {name} {given[0]!r} and as {also!r}")
    for model in models:
        check_folder(model)
    if options.json and (Path(options.json).is_dir() or not Path(options.json).parent.is_dir()):
        raise SettingError("json", f"cannot write to {options.json!r}: it is a folder, or in none that is there")


def answer_settings(evaluation: Evaluation) -> dict[str, Any]:
    """All settings that answers depend on, but for the model and the sampling method, which each answer names."""
    settings = tomllib.loads(to_toml(evaluation.config))
    kept: dict[str, Any] = {KIND: "treepo eval"} | {section: settings[section] for section in ANSWER_SECTIONS}
    del kept["verifier_pool"]["num_workers"]
    if digest := _digest_of_code(evaluation.config.verifier):
        kept["verifier"]["code"] = digest
    kept["train"] = {"autocast": settings["train"]["autocast"]}
    kept["engine"] = {key: settings["engine"][key] for key in ("kind", "temperature", "top_k", "top_p", "min_p")}
    kept["model"] = {key: settings["model"][key] for key in ("dtype", "device")}
    return kept | {"seed": evaluation.config.train.seed}


def _digest_of_code(verifier: Verifier) -> str:
    """A checksum of the file with the user's own verifier; empty for ours."""
    module = type(verifier).__module__
    if isinstance(verifier, FunctionVerifier):
        module = verifier.function.partition(":")[0]
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
