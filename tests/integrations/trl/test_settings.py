"""What trees inside TRL cannot do is refused before anything is trained, with the setting to change."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import HfArgumentParser

from tests.integrations.trl.trainers import config, dataset, distinct_characters
from treepo.credit import SPO, TreePO
from treepo.errors import SettingError
from treepo.grow import NoFallback
from treepo.integrations.trl import PackedGRPOTrainer, TreeGRPOConfig, TreeGRPOTrainer

pytestmark = [pytest.mark.trl, pytest.mark.filterwarnings("ignore")]

REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("fallback", {"fallback": NoFallback()}),
    ("fallback", {"fallback": "NoFallback"}),
    ("fallback.use", {"fallback": "Backtrak"}),
    ("estimator.use", {"estimator": "TreeGRPO"}),
    ("estimator.eps", {"estimator": {"use": "GRPO", "eps": -1.0}}),
    ("estimator.with_root", {"estimator": TreePO(with_root=False), "tree_depth": 1}),
    ("estimator", {"estimator": SPO}),
    ("stopping.answer", {"stopping": {"answer": "answer"}}),
    ("engine.temperature", {"engine": {"temperature": 0.5}}),
    ("engine.kind", {"engine": {"kind": "vllm"}}),
    ("engine.slots", {"engine": {"slots": 3}}),
    ("tree_segment_len", {"tree_depth": 2, "tree_segment_len": 3}),
    ("tree_depth", {"tree_depth": 0}),
    ("tree_num_children", {"tree_num_children": 0}),
    ("scale_rewards", {"scale_rewards": "none"}),
    ("multi_objective_aggregation", {"multi_objective_aggregation": "normalize_then_sum"}),
    ("repetition_penalty", {"repetition_penalty": 1.1}),
    ("generation_kwargs", {"generation_kwargs": {"top_p": 0.9}}),
    ("use_transformers_continuous_batching", {"use_transformers_continuous_batching": True}),
]


@pytest.mark.parametrize(("path", "settings"), REFUSED, ids=[path for path, _ in REFUSED])
def test_refused_settings(path, settings, tmp_path):
    with pytest.raises(SettingError) as refused:
        config(tmp_path, **settings)
    assert refused.value.path == path


def test_limits_of_the_engine_are_taken(tmp_path):
    """`engine.num_scheduler_steps` was refused as a setting of TRL's own, which has none of that name."""
    assert config(tmp_path, engine={"num_scheduler_steps": 4}).sections().engine.num_scheduler_steps == 4


@pytest.mark.parametrize(
    ("path", "settings"),
    [
        ("per_device_train_batch_size", {"per_device_train_batch_size": 12, "num_generations": 8}),
        ("per_device_eval_batch_size", {"eval_strategy": "steps", "eval_steps": 1, "num_generations_eval": 16}),
    ],
)
def test_groups_must_not_straddle_processes(path, settings, tmp_path, monkeypatch):
    """Two processes with a batch and a half each: TRL divides the third group among them."""
    monkeypatch.setattr(TreeGRPOConfig, "world_size", 2)
    with pytest.raises(SettingError) as refused:
        config(tmp_path, **settings)
    assert refused.value.path == path


@pytest.mark.parametrize(
    ("path", "kind", "given"),
    [
        ("tools", TreeGRPOTrainer, {"tools": [print]}),
        ("rollout_func", TreeGRPOTrainer, {"rollout_func": print}),
        ("args", TreeGRPOTrainer, {"args": object()}),
        ("per_device_eval_batch_size", TreeGRPOTrainer, {"eval_dataset": dataset(), "eval_batch": 6}),
        ("torch_compile", PackedGRPOTrainer, {"torch_compile": True}),
        ("model_init_kwargs", PackedGRPOTrainer, {"model_init_kwargs": {"attn_implementation": "flex_attention"}}),
        ("vllm_enable_sleep_mode", TreeGRPOTrainer, {"use_vllm": True, "vllm_enable_sleep_mode": True}),
        ("vllm_tensor_parallel_size", TreeGRPOTrainer, {"use_vllm": True, "vllm_tensor_parallel_size": 2}),
        ("cast_lm_head_to_fp32", TreeGRPOTrainer, {"cast_lm_head_to_fp32": True}),
    ],
)
def test_refused_arguments(path, kind, given, tmp_path, tiny_llama):
    settings = {n: v for n, v in given.items() if n in TreeGRPOConfig.__dataclass_fields__}
    if "eval_batch" in given:
        settings["per_device_eval_batch_size"] = given["eval_batch"]
    arguments = {n: v for n, v in given.items() if n not in settings and n != "eval_batch"}
    arguments = {"args": config(tmp_path, **settings), "train_dataset": dataset()} | arguments
    with pytest.raises(SettingError) as refused:
        kind(str(tiny_llama), distinct_characters, **arguments)
    assert refused.value.path == path


def test_sharded_models_are_refused():
    plain = {"_is_vlm": False, "aux_loss_enabled": False, "is_fsdp_enabled": False, "is_deepspeed_enabled": False}
    for name in ("fsdp", "deepspeed"):
        trainer: Any = SimpleNamespace(**plain | {f"is_{name}_enabled": True})
        with pytest.raises(SettingError, match=f"{name}: packed forwards work with one process or with DDP"):
            PackedGRPOTrainer._check_model(trainer)


def test_defaults_and_names():
    plain = TreeGRPOConfig("out", use_cpu=True, bf16=False)
    assert plain.shape(8).segment_len == 64 and plain.shape(8).max_response_tokens == 512
    assert plain.sections().estimator == TreePO()
    named = TreeGRPOConfig("out", use_cpu=True, bf16=False, estimator="SPO", initial_fork={"low": 2, "high": 8})
    assert named.sections().estimator == SPO()
    assert named.sections().initial_fork.high == 8


def test_settings_come_from_a_command_line_as_trls_do():
    """TrlParser is an HfArgumentParser: a table is written as JSON."""
    words = ["--output_dir", "out", "--use_cpu", "--bf16", "no", "--estimator", "SPO", "--tree_depth", "4"]
    words += ["--initial_fork", '{"low": 2, "high": 4}']
    (parsed,) = HfArgumentParser(TreeGRPOConfig).parse_args_into_dataclasses(words)
    assert parsed.sections().estimator == SPO()
    assert parsed.sections().initial_fork.high == 4
    assert parsed.tree_depth == 4


def test_a_missing_library_is_named_with_its_extra():
    check = "import sys; sys.modules['trl'] = None\nimport treepo.integrations.trl"
    printed = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False).stderr
    assert "ImportError: treepo.integrations.trl needs TRL: pip install 'treepo[trl]'" in printed
