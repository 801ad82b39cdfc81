"""Every recipe is built and takes a step, on a tiny model and made records in the format of its own sets."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.models import save_tiny_model
from tests.parts import prepare
from treepo.config.load import read_recipe, resolve
from treepo.config.schema import Config, Settings
from treepo.data.reasoning_gym import is_gym
from treepo.data.sources import PRESETS, parse_source
from treepo.report.terminal import Terminal

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
REAL = [path for path in RECIPES if "data" in read_recipe(path) and "reasoning_gym" not in path.stem]
RECORDS = {
    "gsm8k": {"question": "What is {}+1?", "answer": "{}+1 = {}\n#### {}"},
    "math": {"problem": "Find {}.", "solution": "So \\boxed{{{}}}.", "level": "Level 4", "type": "Algebra"},
    "deepscaler": {"problem": "Compute {}.", "answer": "{}", "solution": ""},
    "math500": {"problem": "Solve x = {}.", "answer": "{}", "unique_id": "test/{}.json"},
    "aime24": {"problem": "Find m+n = {}.", "answer": "{}", "id": "{}"},
    "amc23": {"question": "Which of {}?", "answer": "{}", "id": "{}"},
    "minerva": {"question": "How fast is {}?", "answer": "{}"},
    "olympiad": {"question": "Prove {}.", "final_answer": ["{}"], "context": None, "unit": None, "id": "{}"},
}


def made_set(folder: Path, source: str) -> str:
    """A file of 12 records in the format of a published set, as a source; what reasoning-gym makes stays as it is."""
    if is_gym(source):
        pytest.importorskip("reasoning_gym")
        return source
    name = source.partition("@")[0]
    path = folder / f"{source}.jsonl"
    # A train and a test part have other problems.
    start = sum(map(ord, source))
    lines = [json.dumps(filled(RECORDS[name], start + i)) for i in range(12)]
    path.write_text("\n".join(lines) + "\n")
    return f"{name}={path}"


def filled(value: Any, number: int) -> Any:
    if isinstance(value, dict):
        return {key: filled(v, number) for key, v in value.items()}
    if isinstance(value, list):
        return [filled(v, number) for v in value]
    return (
        value.replace("{{", "\0").replace("}}", "\1").replace("{}", str(number)).replace("\0", "{").replace("\1", "}")
        if isinstance(value, str)
        else value
    )


def on_this_machine(recipe: Settings, folder: Path) -> Config:
    """The recipe with a tiny model on the CPU, small trees and made records; all else as it stands."""
    data = {key: tuple(made_set(folder, source) for source in recipe["data"][key]) for key in ("train", "eval")}
    small: Settings = {
        "model": {"path": str(save_tiny_model(folder / "model", "qwen2", chat=True)), "device": "cpu"},
        "data": data,
        "engine": {"kind": "embedded", "max_num_seqs": 16},
        "tree": {"width": 4, "depth": 2, "segment_len": 4, "align": 1},
        "reward": {"overlong_buffer": 4} if "reward" in recipe else {},
        "train": {"prompts_per_step": 4, "num_mini_batches": 2, "max_tokens_per_micro_batch": 256},
        "eval": {"num_problems": 5, "num_samples": 2},
    }
    return resolve(recipe, small)


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_real_recipes_build_and_step(path: Path, tmp_path: Path) -> None:
    """Problems are read in each set's own format, asked, judged and evaluated set by set."""
    config = on_this_machine(read_recipe(path), tmp_path)
    run = prepare(config, tmp_path / "out", Terminal(Console(quiet=True)))
    try:
        result = run.trainer.step(1)
        figures = run.evaluate()
    finally:
        run.close()
    # Any number in what the model writes is an answer where the last one counts.
    takes_any_number = "last_number" in getattr(config.verifier, "extract_from", ())
    assert result.metrics["verify/no_answer"] > (0 if takes_any_number else 0.5)
    assert len(result.trees) >= 4
    assert 0 <= figures["eval/avg"] <= figures["eval/pass"] <= 1
    held_out = {problem.dataset for problem in run.task.eval_problems(5)}
    assert held_out == {parse_source(source).format for source in read_recipe(path)["data"]["eval"]}
    asked = run.task.training_problems(0, 100)
    assert {p.dataset for p in asked} == {parse_source(s).format for s in read_recipe(path)["data"]["train"]}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_resolve_as_they_stand(path: Path) -> None:
    """No unknown or impossible setting, and every published set that is named is known."""
    config = resolve(read_recipe(path))
    for source in (*config.data.train, *config.data.eval):
        assert source.partition("@")[0] in PRESETS or is_gym(source)


def test_the_papers_recipe_has_the_papers_values() -> None:
    """Section 3 and table 1 of arXiv 2508.17445."""
    config = resolve(read_recipe(Path(__file__).parents[2] / "recipes" / "paper_qwen2.5_7b.toml"))
    assert (config.tree.width, config.tree.depth, config.tree.segment_len) == (16, 14, 512)
    assert config.tree.max_response_tokens == 7168
    assert config.train.prompts_per_step // config.train.num_mini_batches == 32
    assert config.train.prompts_per_step == 512
    assert (config.optim.lr, config.optim.warmup_steps, config.optim.weight_decay) == (1e-6, 10, 0.1)
    assert (config.initial_fork.low, config.initial_fork.high) == (2, 8)
    assert (config.penalties.kl_coef, config.penalties.entropy_coef) == (0, 0)
    assert config.dynamic_sampling.max_factor == 3
