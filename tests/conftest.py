"""Fixtures for the whole suite."""

import os
from importlib.util import find_spec
from pathlib import Path

# Threads that spin long while they wait make small models many times slower when another process is busy.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# Without a network its client tries again for a minute.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from hypothesis import settings

from tests.real_data import real_file
from treepo.tasks.base_model import make_base_model
from treepo.tasks.settings import BaseModelSettings

# On a busy machine a single example may take any time.
settings.register_profile("any load", deadline=None)
settings.load_profile("any load")
settings.register_profile("quick", deadline=None, max_examples=10)


@pytest.fixture(scope="session")
def chain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and tokenizer of the built-in task, pretrained for a moment only."""
    folder = tmp_path_factory.mktemp("models") / "chain"
    model, tokenizer = make_base_model(seed=0, settings=BaseModelSettings(num_steps=40, num_warmup_steps=5))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gsm8k() -> Path:
    """The published GSM8K training file, in the folder TREEPO_DATA or beside the repository in shared/data."""
    return real_file("gsm8k_train.jsonl")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("vllm") and find_spec("vllm") is None:
        pytest.skip("vLLM is not installed; make test-vllm")
