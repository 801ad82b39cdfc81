"""The model that is measured: one that is given, or random weights."""

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from treepo.bench.settings import ArchitectureSettings
from treepo.model.policy import Policy, load_policy
from treepo.settings import ModelSettings
from treepo.task.base_model import BaseModelSettings, initial_model
from treepo.task.chain_tokenizer import make_chain_tokenizer

FIRST_WORD = 3
"""The built-in tokenizer's ids below are special."""


def load_or_make(settings: ModelSettings, architecture: ArchitectureSettings, longest: int, seed: int) -> Policy:
    """The model that is named, or random weights for sequences of up to `longest` tokens."""
    if settings.path:
        return load_policy(settings.path, settings.dtype, settings.device, settings.trust_remote_code)
    with TemporaryDirectory() as folder:
        save_random_model(Path(folder), architecture, longest, seed)
        return load_policy(folder, settings.dtype, settings.device)


def save_random_model(folder: Path, architecture: ArchitectureSettings, max_len: int, seed: int) -> None:
    """Write random weights with the built-in task's tokenizer, as one downloads a model."""
    tokenizer = make_chain_tokenizer()
    settings = BaseModelSettings(max_positions=max_len, **dataclasses.asdict(architecture))
    initial_model(seed, tokenizer, settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def random_ids(rng: np.random.Generator, vocab_size: int, count: int) -> np.ndarray:
    """int64 [count]: random words."""
    return rng.integers(min(FIRST_WORD, vocab_size - 1), vocab_size, count)
