"""benchmarks/gpu_check.py without a GPU: it runs to its end, and says what it did not check."""

import importlib
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models import make_tiny_model
from treepo.engine.base import SampleRequest
from treepo.engine.torch.engine import TorchEngine
from treepo.engine.torch.kv_cache import bytes_per_token

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_check.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the script defines."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return runpy.run_path(str(SCRIPT))


def test_every_section_runs_in_tiny_sizes_on_the_cpu(script: dict[str, Any], tmp_path: Path) -> None:
    """What needs no GPU passes; no speed is judged, and nothing is left out in silence."""
    out = tmp_path / "found.json"
    assert script["main"]([], True, out, 100.0) == 0
    found = json.loads(out.read_text())
    names = {name.split("/")[0] for name in [*found["checks"], *found["skipped"]]}
    assert names - {"copy"} == script["SECTIONS"].keys()
    assert {name.split("/")[0] for name in found["checks"]} == names - {"copy", "decode", "learns", "engines"}
    assert all(check["passed"] for check in found["checks"].values())
    skipped = {"copy/TB_per_s", "decode/7B/bfloat16/8/every16/share_of_roofline", "engines/trees"}
    skipped |= {"update/graphs", "memory/peak", "learns/gain"}
    assert skipped <= found["skipped"].keys()


def test_a_section_that_fails_costs_the_others_nothing(script: dict[str, Any]) -> None:
    """Its error is a check that failed; a section for which no time is left is skipped and named."""

    def broken(checks: Any) -> None:
        raise RuntimeError("no kernel image")

    def fine(checks: Any) -> None:
        checks.add("fine/one", 1, "1", passed=True)

    checks = script["Checks"](script["torch"].device("cpu"), seconds=60.0)
    for name, seconds, section in (("broken", 0, broken), ("late", 100, fine), ("fine", 0, fine)):
        checks.run(name, seconds, section)
    assert checks.found["broken/runs"]["value"] == "RuntimeError: no kernel image"
    assert [check["passed"] for check in checks.found.values()] == [False, True]
    assert checks.skipped == {"late": "less than 100 s are left"}


def test_the_least_time_counts_what_paths_share_once(script: dict[str, Any]) -> None:
    """Four paths over a prompt of 17 tokens that decode 5 each: the prompt, and of each path all but the last token,
    whose keys and values are still to come."""
    roofline = importlib.import_module("gpu_checks.roofline")
    checks = script["Checks"](script["torch"].device("cpu"), seconds=60.0)
    engine = TorchEngine(make_tiny_model("qwen2"), [], 4)
    for i in range(4):
        engine.submit(SampleRequest(i, np.arange(3, 20, dtype=np.int32) % 16, 9, seed=i, group=0))
    for _ in range(5):
        engine.step()
    assert roofline.num_distinct_slots(engine) == 17 + 4 * 4
    checks.__dict__["copy_bandwidth"] = 33 * bytes_per_token(engine.model, torch.float32) / 2.0
    seconds = roofline.floor_seconds(checks, engine)
    assert 2.0 < seconds < 2.5
