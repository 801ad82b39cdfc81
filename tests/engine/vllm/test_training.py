"""A training run over vLLM: the trees of the embedded engine, repeatable, and the reward rises."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.engine.engines import needs_vllm
from treepo.cli.main import main
from treepo.tasks.base_model import find_or_make_base_model
from treepo.utils.io import default_cache_folder

pytestmark = needs_vllm


@pytest.fixture(scope="module")
def base_model() -> Path:
    """The built-in task's, made once."""
    return find_or_make_base_model(default_cache_folder(), seed=0, report=lambda *_: None)


def train(base_model: Path, out: Path, *options: str, count: int = 1) -> list[dict[str, float]]:
    """Metrics of a run of the built-in task, in so many processes."""
    sizes = ["--tree.width", "8", "--tree.depth", "4", "--tree.segment_len", "32", "--train.prompts_per_step", "16"]
    task = ["--model.path", str(base_model), "--train.save_trees_every", "1", "--eval.num_problems", "50"]
    learning = ["--optim.lr", "2e-4", "--optim.warmup_steps", "2", "--optim.betas", "[0.9, 0.95]"]
    # In a process of its own: when one of several engines ends, vLLM breaks the others.
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    command = [sys.executable, *torchrun, "-m", "treepo", "train", *sizes, *task, *learning, *options]
    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def trees(out: Path, step: int) -> list[tuple]:
    """What identifies the nodes of a step's trees."""
    table = pq.read_table(out / "trees" / f"step-{step:06d}.parquet")
    return list(
        zip(*(table[name].to_pylist() for name in ("problem", "parent", "token_ids", "seed", "stop")), strict=True)
    )


def test_reward_rises_and_runs_repeat(base_model: Path, tmp_path: Path) -> None:
    """Ten steps over vLLM: accuracy doubles, a second run is the same in every weight, and the first step's trees are
    those of the embedded engine; engine and trainer agree within 1e-5 before the first update."""
    options = ["--train.num_steps", "10", "--tree.align", "32"]
    log = train(base_model, tmp_path / "a", "--engine.kind", "vllm", *options)
    again = train(base_model, tmp_path / "b", "--engine.kind", "vllm", *options)
    train(base_model, tmp_path / "c", "--train.num_steps", "1", "--tree.align", "32")
    assert trees(tmp_path / "a", 1) == trees(tmp_path / "c", 1)
    assert log[-1]["eval/avg"] > 2 * log[0]["eval/avg"]
    assert log[1]["mismatch/max"] < 1e-5
    assert all(step["engine/cached"] > 0 for step in log[1:])
    names = [name for name in log[-1] if not name.startswith(("time/", "memory/"))]
    assert [[step.get(name) for name in names] for step in log] == [[s.get(name) for name in names] for s in again]
    weights = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in "ab"]
    assert weights[0] == weights[1]


def test_two_processes_have_a_vllm_each(base_model: Path, tmp_path: Path) -> None:
    """Under torchrun: the trees of the embedded engine in one process, and each vLLM has the weights of its step."""
    steps = ["--tree.align", "32", "--train.num_steps"]
    log = train(base_model, tmp_path / "two", "--engine.kind", "vllm", *steps, "2", count=2)
    alone = train(base_model, tmp_path / "one", *steps, "1")
    assert trees(tmp_path / "two", 1) == trees(tmp_path / "one", 1)
    assert log[0]["eval/avg"] == alone[0]["eval/avg"]
    assert len(log) == 3 and max(step["mismatch/max"] for step in log[1:]) < 1e-5


def test_adapters_and_corrected_narrow_products(base_model: Path, tmp_path: Path) -> None:
    """Adapters trained over a bfloat16 engine, with the mismatch corrected: it is measured, and bounded."""
    pytest.importorskip("peft")
    narrow = ["--engine.kind", "vllm", "--vllm.dtype", "bfloat16", "--train.recompute_old_logprobs", "true"]
    options = ["--train.num_steps", "2", "--lora.rank", "4", "--train.importance_cap", "2.0"]
    log = train(base_model, tmp_path / "run", *narrow, *options)
    for step in log[1:]:
        assert 1e-5 < step["mismatch/mean"] < 0.05
        assert step["mismatch/max"] < 2.0
        assert 0 < step["mismatch/kl"] < 0.01
    assert (tmp_path / "run" / "adapter").is_dir()


def test_trees_are_measured_over_vllm(tmp_path: Path) -> None:
    """`treepo bench rollout` over vLLM: aligned forks leave fewer tokens of prefixes to compute than others do."""
    grid = ["--grid.widths", "[4]", "--grid.depths", "[3]", "--grid.segment_lens", "[32]", "--grid.aligns", "[1, 32]"]
    sizes = ["--prompts.count", "3", "--bench.repeats", "1", "--bench.plain_batches", "[]", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "treepo", "bench", "rollout", "--engine.kind", "vllm", *grid, *sizes]
    subprocess.run(command, check=True, capture_output=True)
    (workload,) = json.loads((tmp_path / "rollout.json").read_text())["workloads"]
    counts = {variant["name"]: variant["counts"] for variant in workload["variants"]}
    assert list(counts) == ["sequential", "tree 3x32 k2 b2", "tree 3x32 k2 b2 a32"]
    assert {c["num_trajectories"] for c in counts.values()} == {12}
    assert counts["tree 3x32 k2 b2 a32"]["num_prefilled"] < counts["tree 3x32 k2 b2"]["num_prefilled"]


def test_an_evaluation_has_the_embedded_engines_answers(base_model: Path, tmp_path: Path) -> None:
    """`treepo eval` over vLLM: sequential, tree and greedy answers are the same, letter by letter."""
    found = []
    for engine in ("embedded", "vllm"):
        out = tmp_path / engine
        command = ["eval", str(base_model), "--problems", "8", "--samples", "4", "--engine.kind", engine]
        command += ["--sampling", "sequential", "tree", "greedy", "--tree.align", "32", "--out", str(out)]
        if engine == "embedded":
            assert main(command) == 0
        else:
            subprocess.run([sys.executable, "-m", "treepo", *command], check=True, capture_output=True)
        rows = pq.read_table(out / "answers.parquet", columns=["setting", "problem", "sample", "response"]).to_pylist()
        found.append(sorted(map(str, rows)))
    assert found[0] == found[1] and len(found[0]) == 8 * (4 + 4 + 1)
