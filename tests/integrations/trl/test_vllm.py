"""Trees over TRL's vLLM, whose place a fake takes: what it is asked for, and what comes of its answers."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.integrations.trl.trainers import config, dataset, distinct_characters
from treepo.engine.base import SampleRequest
from treepo.errors import EngineError, SettingError
from treepo.integrations.trl import TreeGRPOTrainer
from treepo.integrations.trl.vllm import TrlVllmEngine, check_vllm

pytestmark = [pytest.mark.trl, pytest.mark.filterwarnings("ignore")]

EOS = 2


class FakeGeneration:
    """VLLMGeneration as TRL's trainer calls it: the tokens count up from the last one of the prompt."""

    def __init__(self, **settings: Any) -> None:
        self.max_completion_length = settings.get("max_completion_length", 100)
        self.rng = np.random.default_rng(0)
        self.calls: list[tuple[list[list[int]], int]] = []
        self.num_syncs = 0

    def sync_weights(self) -> None:
        self.num_syncs += 1

    def generate(self, prompts: list[list[int]], images: None, num_generations: int, profiler: Any = None) -> Any:
        assert num_generations == 1
        self.calls.append((prompts, self.max_completion_length))
        ids = [[(prompt[-1] + 1 + i) % 50 + 5 for i in range(self.max_completion_length)] for prompt in prompts]
        for own in ids:
            own[0] = int(self.rng.integers(5, 50))
        return prompts, ids, [[[-0.5] for _ in own] for own in ids], None


def request(number: int, length: int, group: int = 0) -> SampleRequest:
    return SampleRequest(number, np.array([1, 7]), length, seed=0, group=group)


def test_a_step_is_one_call_and_cuts_what_is_longer_than_asked_for():
    """A sample that is cut after n tokens is distributed as one of n tokens."""
    generation = FakeGeneration()
    engine = TrlVllmEngine(generation, [EOS])
    for number, length in enumerate([3, 5, 1]):
        engine.submit(request(number, length, group=number))
    engine.abort_group(2)
    results = engine.step()
    assert [(len(prompts), limit) for prompts, limit in generation.calls] == [(2, 5)]
    assert [(r.request_id, len(r.token_ids), len(r.logprobs), r.ended) for r in results] == [
        (0, 3, 3, False),
        (1, 5, 5, False),
    ]
    assert generation.max_completion_length == 100
    assert engine.step() == []


def test_the_end_of_a_sequence_and_a_missing_log_probability():
    generation = FakeGeneration()
    engine = TrlVllmEngine(generation, [EOS])
    generation.generate = lambda **_: (None, [[9, EOS]], [[[-1.0], [-2.0]]], None)
    engine.submit(request(0, 4))
    (result,) = engine.step()
    assert result.ended
    assert result.logprobs.tolist() == [-1.0, -2.0]
    generation.generate = lambda **_: (None, [[9, EOS]], [[[None], [-2.0]]], None)
    engine.submit(request(0, 4))
    with pytest.raises(EngineError, match="not a number"):
        engine.step()


def test_trees_grow_over_trls_vllm(tmp_path, tiny_llama, monkeypatch):
    """In segments from the prefixes of the tree; weights are sent once per step, and ratios to vLLM's own
    log-probabilities are corrected as TRL does."""
    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", FakeGeneration)
    args = config(tmp_path, use_vllm=True, tree_depth=3, stopping={"repetition": "never"})
    trainer = TreeGRPOTrainer(str(tiny_llama), distinct_characters, args, train_dataset=dataset())
    trainer.train()
    generation = trainer.vllm_generation
    assert generation.num_syncs == 2
    calls = [(len(prompts), limit) for prompts, limit in generation.calls]
    # Two trees of two children, then four, of which each is decoded to its end.
    assert calls == [(4, 4), (8, 8)] * 2
    tree = trainer.trees[0]
    path = tree.trajectories()[0]
    assert len(path.token_ids) == 12
    assert trainer.state.log_history[0]["sampling/sampling_logp_difference/mean"] > 0
    assert any(prompt == tree.ids(path.nodes[0]).tolist() for prompts, _ in generation.calls for prompt in prompts)


def test_what_processes_would_have_to_ask_for_together_is_refused():
    plain = {"vllm_mode": "colocate", "vllm_tensor_parallel_size": 1, "vllm_enable_sleep_mode": False}
    check_vllm(SimpleNamespace(**plain), 8)
    check_vllm(SimpleNamespace(**plain | {"vllm_mode": "server"}), 1)
    with pytest.raises(SettingError, match="vllm_mode"):
        check_vllm(SimpleNamespace(**plain | {"vllm_mode": "server"}), 2)
