"""The examples run and stay as short as promised."""

import importlib.util
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent / "examples" / "tree_loop.py"


def test_tree_loop_runs(chain_model, capsys):
    spec = importlib.util.spec_from_file_location("tree_loop", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reward = module.main(chain_model, num_steps=2, num_problems=4)
    assert 0 <= reward <= 1
    assert "step 2: mean reward" in capsys.readouterr().out


def test_tree_loop_fits_in_200_lines():
    assert len(EXAMPLE.read_text().splitlines()) <= 200
