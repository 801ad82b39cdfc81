"""The settings that the answers of an evaluation depend on: answers under other ones are not mixed with them."""

import hashlib
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from treepo.config.load import to_toml
from treepo.config.schema import Config
from treepo.evaluate.store import KIND
from treepo.run.evaluation_plan import Evaluation
from treepo.utils.imports import make_importable
from treepo.verify.base import Verifier
from treepo.verify.verifiers import FunctionVerifier

ANSWER_SECTIONS = (
    "data",
    "prompt",
    "verifier",
    "verifier_pool",
    "initial_fork",
    "branching",
    "fallback",
    "stopping",
    "tree",
)
"""Sections whose settings all change answers or verdicts."""


def num_accelerators(config: Config) -> int:
    """Devices that decode: one for each server, else one GPU or none."""
    if config.engine.kind == "servers":
        return len(config.servers.urls)
    return int(config.model.device != "cpu")


def answer_settings(evaluation: Evaluation) -> dict[str, Any]:
    """All settings that answers depend on, but for the model and the sampling method, which each answer names."""
    settings = tomllib.loads(to_toml(evaluation.config))
    kept: dict[str, Any] = {KIND: "treepo eval"}
    kept |= {section: settings[section] for section in ANSWER_SECTIONS}
    del kept["verifier_pool"]["num_workers"]
    if digest := _digest_of_code(evaluation.config.verifier):
        kept["verifier"]["code"] = digest
    kept["train"] = {"autocast": settings["train"]["autocast"]}
    kept["engine"] = {key: settings["engine"][key] for key in ("kind", "temperature", "top_k", "top_p", "min_p")}
    kept["model"] = {key: settings["model"][key] for key in ("dtype", "device")}
    return kept | {"seed": evaluation.config.train.seed}


def _digest_of_code(verifier: Verifier) -> str:
    """A checksum of the file with the user's own verifier; empty for ours."""
    module = (
        verifier.function.partition(":")[0] if isinstance(verifier, FunctionVerifier) else type(verifier).__module__
    )
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
