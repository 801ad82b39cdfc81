"""The Python scripts of docs/ and README.md run, on a tiny model, and say what is so."""

import json
import re
import runpy
import sys
import tomllib
import types
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.models import save_tiny_model
from treepo.cli.main import main
from treepo.config.load import is_exchangeable, known_classes, resolve, setting_names
from treepo.config.python import FLAT, TreePOConfig
from treepo.config.schema import Config
from treepo.data.problem import Problem
from treepo.tree import StopReason
from treepo.verify.reward_functions import Answers, call_functions, import_function
from treepo.verify.rewards import ShapedReward

ROOT = Path(__file__).parent.parent
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
SMALL: dict[str, Any] = {
    "tree": {"width": 4, "depth": 2, "segment_len": 8},
    "train": {"num_steps": 3, "prompts_per_step": 2},
    "eval": {"num_problems": 2, "every": 2},
    "verifier_pool": {"num_workers": 1},
}
"""What is smaller in the tests than in the scripts."""


def load_dataset(*_: str, split: str) -> list[dict[str, str]]:
    """Rows in the format of GSM8K."""
    return [{"question": f"What is {a} + 3?", "answer": f"It is easy.\n#### {a + 3}"} for a in range(12)]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder of a tiny model, where every run is a small one and `datasets` is what the scripts use of it."""
    resolve = TreePOConfig.resolve
    monkeypatch.setattr(TreePOConfig, "resolve", lambda self, *layers, **kw: resolve(self, *layers, SMALL, **kw))
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.chdir(tmp_path)
    return str(save_tiny_model(tmp_path / "tiny", chat=True))


def page(path: str) -> str:
    return (ROOT / path).read_text()


def scripts(path: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page(path), re.MULTILINE | re.DOTALL)


def run(path: str, model: str, without: str = "") -> dict[str, Any]:
    """Run the scripts of a page one after the other, and return the names that they leave."""
    names: dict[str, Any] = {}
    for number, script in enumerate(scripts(path), start=1):
        if not without or without not in script:
            exec(compile(script.replace(MODEL, model), f"{path}, script {number}", "exec"), names)
    return names


def test_the_scripts_of_the_page_on_python_run(model: str, capsys: pytest.CaptureFixture[str]):
    run("docs/python.md", model)
    out = capsys.readouterr().out
    for said in re.findall(r"print\(error\)  # (.*)", page("docs/python.md")):
        assert all(part in out for part in said.split(" ... "))
    assert Path("out", "model.safetensors").is_file()
    assert len(Path("runs/loop/metrics.jsonl").read_text().splitlines()) >= 3


def test_the_script_of_the_readme_runs(model: str):
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, load_dataset("gsm8k", split="train"))))
    (script,) = scripts("README.md")
    exec(script.replace(MODEL, model).replace('"gsm8k"', '"gsm8k=rows.jsonl"'), {})
    assert Path("runs/x/report.html").is_file()


def test_the_page_on_python_has_every_flat_argument():
    rows = page("docs/python.md")
    assert dict(re.findall(r"^\| `(\w+)` \| `([\w.]+)` \|$", rows, re.MULTILINE)) == FLAT


def test_the_scripts_of_the_page_on_rewards_run(model: str):
    metrics = run("docs/rewards.md", model, without="class Terse")["metrics"]
    parts = ("correct", "names_the_unit", "asks_elsewhere")
    assert sum(metrics[f"reward/{part}"] for part in parts) == pytest.approx(metrics["reward/mean"])
    assert metrics["reward_metrics/longest"] > 0 > metrics["reward/asks_elsewhere"]
    last = json.loads(Path("runs/free/metrics.jsonl").read_text().splitlines()[-1])
    assert "eval/reward/mean" in last and "accuracy" not in last


def test_the_functions_of_the_recipe_on_the_page_on_rewards_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (recipe,) = [r for r in re.findall(r"```toml\n(.*?)```", page("docs/rewards.md"), re.DOTALL) if "functions" in r]
    (tmp_path / "my_rewards.py").write_text(scripts("docs/rewards.md")[0].partition("problems =")[0])
    monkeypatch.syspath_prepend(tmp_path)
    config = resolve(tomllib.loads(recipe))
    assert isinstance(config.reward, ShapedReward) and config.reward.function_weights == (0.2, 0.1)
    name, _ = config.reward.functions
    assert isinstance(name, str) and import_function(name)(["7 m"], ["7 m"], unit=["m"]) == [1.0]


def test_the_page_on_rewards_has_everything_that_a_function_is_given():
    problem = Problem("id", "What?", (1,), "7")
    answers = Answers(np.ones(1), ("7",), np.ones(1), np.ones(1, bool), 8, problem, stops=(StopReason.EOS,))
    given: dict[str, Any] = {}
    call_functions([lambda **everything: given.update(everything) or [1.0]], ["all"], [answers])
    text = page("docs/rewards.md")
    assert [name for name in given if not re.search(rf"`{name}[`(]", text)] == []
    assert [reason for reason in StopReason if f'`"{reason}"`' not in text] == []


def test_the_page_of_public_names_is_up_to_date():
    """`python docs/make_api.py` writes it anew."""
    names = runpy.run_path(str(ROOT / "docs" / "make_api.py"))
    assert page("docs/api.md") == names["api_page"]()


def code_lines(script: str) -> int:
    return sum(bool(line.strip()) for line in script.splitlines())


def test_the_scripts_of_the_page_for_users_of_trl_run(model: str):
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, load_dataset("gsm8k", split="train"))))
    text = page("docs/from_trl.md")
    first, smallest = scripts("docs/from_trl.md")
    exec(first.replace(MODEL, model), {})
    assert Path("out", "model.safetensors").is_file()
    exec(smallest.replace(MODEL, model).replace('"gsm8k"', '"gsm8k=rows.jsonl"'), {})
    others = re.findall(r"^```py\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert f"TRL, {code_lines(others[0])} lines" in text and f"treepo, {code_lines(first)} lines" in text
    assert f"has {code_lines(others[1])} lines in TRL and {code_lines(smallest)} here" in text


def test_the_command_of_the_page_for_users_of_verl_reads_its_files(model: str, capsys: pytest.CaptureFixture[str]):
    """Records as verl's examples/data_preprocess/gsm8k.py writes them."""
    chats = [[{"role": "user", "content": f'What is {a} + 1? Output the answer after "####".'}] for a in range(20)]
    rows = [{"data_source": "x", "prompt": c, "reward_model": {"ground_truth": "7"}} for c in chats]
    pq.write_table(pa.Table.from_pylist(rows), "train.parquet")
    (line,) = re.findall(r"^treepo (train --model.*)$", page("docs/from_verl.md"), re.MULTILINE)
    assert main([*line.replace("MODEL", model).split(), "--tree.segment_len", "8", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert '"####".<assistant>' in out and "'#### 7'" in out and "verdict        1" in out


def settings_of_runs() -> set[str]:
    """Every setting as section.name, those of all classes that `use` can name too."""
    found = set(setting_names(Config))
    for section in fields(Config):
        classes = known_classes(section).values() if is_exchangeable(section) else ()
        found |= {f"{section.name}.{f.name}" for cls in classes for f in fields(cls)}
    return found


@pytest.mark.parametrize("path", ["docs/python.md", "docs/from_trl.md", "docs/from_verl.md", "docs/compare.md"])
def test_every_setting_that_the_last_column_of_a_page_names_exists(path: str):
    """The other columns name those of others."""
    sections = "|".join(section.name for section in fields(Config))
    cells = [line.split(" | ")[-1] for line in page(path).splitlines() if line.startswith("| ")]
    named = {name for cell in cells for name in re.findall(rf"`((?:{sections})\.\w+)(?: = [^`]*)?`", cell)}
    assert len(named) > 10 and named - settings_of_runs() == set()
