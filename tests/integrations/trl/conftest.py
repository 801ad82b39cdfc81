"""Fixtures of the tests with TRL."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.models import save_tiny_model

if find_spec("trl") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama of random weights."""
    return save_tiny_model(tmp_path_factory.mktemp("trl") / "tiny-llama", "llama")
