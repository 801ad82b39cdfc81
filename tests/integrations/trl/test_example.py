"""The example runs TRL's trainer over trees."""

import re
import runpy
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.trl, pytest.mark.filterwarnings("ignore")]

EXAMPLE = Path(__file__).parents[3] / "examples" / "trl_trainer.py"


def test_trl_trainer_runs(chain_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [EXAMPLE.name, str(chain_model)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    decoded, total = (
        sum(map(float, re.findall(rf"'trees/{name}': '([\d.]+)'", printed)))
        for name in ("decoded_tokens", "completion_tokens")
    )
    assert 0 < decoded < total
    assert (tmp_path / "runs" / "trl" / "checkpoint-4" / "model.safetensors").is_file()
