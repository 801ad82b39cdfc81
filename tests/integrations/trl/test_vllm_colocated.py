"""Trees over a real vLLM in the process of TRL's trainer, on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm

PROGRAM = """
import json, sys
from pathlib import Path
from trl.generation.vllm_generation import VLLMGeneration
from tests.integrations.trl.trainers import config, dataset, distinct_characters
from treepo.integrations.trl import TreeGRPOTrainer

calls, generate = [], VLLMGeneration.generate

def sync_weights(self):
    # TRL's own calls the model's load_weights, which layers that vLLM has repacked for a CPU do not allow.
    named = self.accelerator.unwrap_model(self.model).state_dict()
    weights = [(name, value.clone()) for name, value in named.items() if name != "lm_head.weight"]
    self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
    assert self.llm.reset_prefix_cache()
    calls.append("weights")

def counted(self, prompts, *args, **settings):
    calls.append(len(prompts))
    return generate(self, prompts, *args, **settings)

VLLMGeneration.sync_weights, VLLMGeneration.generate = sync_weights, counted
settings = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 128, "learning_rate": 1e-3}
args = config(Path(sys.argv[2]), tree_depth=3, max_completion_length=24, logging_steps=1, **settings)
trainer = TreeGRPOTrainer(sys.argv[1], distinct_characters, args, train_dataset=dataset())
trainer.train()
Path(sys.argv[2], "found.json").write_text(json.dumps({"calls": calls, "log": trainer.state.log_history}))
"""

VLLM_ON_CPU = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def test_trees_grow_over_a_colocated_vllm(chain_model: Path, tmp_path: Path) -> None:
    """Each level of all trees is one call of TRL's vLLM, new weights come once per step, forks share tokens, and the
    log-probabilities of the new weights' vLLM are the trainer's, but for the bfloat16 in which TRL's vLLM computes."""
    # In a process of its own: when one of several engines ends, vLLM breaks the others.
    command = [sys.executable, "-c", PROGRAM, str(chain_model), str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | VLLM_ON_CPU, cwd=Path(__file__).parents[3])
    found = json.loads((tmp_path / "found.json").read_text())
    calls = found["calls"]
    assert calls.count("weights") == 2
    # Two prompts, two first children each; then as many paths as have not ended, one call per level.
    steps = [calls[1 : calls.index("weights", 1)], calls[calls.index("weights", 1) + 1 :]]
    assert all(step[0] == 4 and 2 <= len(step) <= 4 and max(step) <= 8 for step in steps), calls
    first, second, _ = found["log"]
    for step in (first, second):
        assert step["trees/decoded_tokens"] < step["trees/completion_tokens"]
        assert step["sampling/sampling_logp_difference/mean"] < 0.01
        assert step["grad_norm"] > 0
