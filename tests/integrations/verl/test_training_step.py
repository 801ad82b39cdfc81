"""A step of verl's trainer with real Ray and TransferQueue, up to the actor's update; a script stands for the GPUs."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import ray
import torch
import transfer_queue as tq
import verl.utils.tensordict_utils as tu
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.v1 import PPOTrainerSync, get_trainer_cls
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.router import GlobalRequestLoadBalancer

from tests.integrations.verl.stand_ins import EOS, LOGPROB, MAX_LEN, Reward, Server, reward_of, script
from treepo.credit import GRPO
from treepo.engine.base import SampleRequest, SamplingParams
from treepo.engine.scripted import ScriptedEngine
from treepo.grow.builder import TreeBuilder
from treepo.integrations.verl import TreeAgentLoopManager, TreePPOTrainer
from treepo.integrations.verl.rollout import token_advantages
from treepo.integrations.verl.settings import tree_settings
from treepo.integrations.verl.trainer import put_advantages
from treepo.learn.advantages import compute_advantages
from treepo.tree import Tree
from treepo.utils.numeric import derive_seed, digest

pytestmark = [pytest.mark.verl, pytest.mark.filterwarnings("ignore")]

FIELDS = ["prompts", "responses", "rm_scores", "rollout_log_probs", "advantages", "returns", "response_mask"]
TREES = ("+treepo.tree.depth=4", "+treepo.tree.segment_len=8", "+treepo.initial_fork.high=3")
QUESTIONS = ["abc", "xyz", "bcd", "q"]


class Step(NamedTuple):
    """What a step of the trainer left: rows by their keys, metrics, the requests that each server saw; its batch."""

    rows: dict[str, dict[str, Any]]
    metrics: dict[str, float]
    requests: list[list[tuple[list[int], dict[str, Any]]]]
    trainer: TreePPOTrainer
    batch: KVBatchMeta


def batch_of(questions: list[str], uids: str = "u") -> TensorDict:
    """A batch as verl's dataloader makes it."""
    prompts = np.empty(len(questions), dtype=object)
    prompts[:] = [[{"role": "user", "content": question}] for question in questions]
    columns = {
        "raw_prompt": prompts,
        "uid": np.array([f"{uids}{i}" for i in range(len(questions))], dtype=object),
        "index": np.arange(len(questions)).astype(object),
        "data_source": np.array(["chains"] * len(questions), dtype=object),
    }
    batch = tu.get_tensordict(columns)
    tu.assign_non_tensor_data(batch, "global_steps", 1)
    return batch


def make_trainer(config: Any, servers: list[Any]) -> TreePPOTrainer:
    trainer = get_trainer_cls("treepo")(config)
    assert isinstance(trainer, TreePPOTrainer)
    router = (
        ray.remote(GlobalRequestLoadBalancer).options(num_cpus=0.1).remote({str(i): s for i, s in enumerate(servers)})
    )
    trainer.agent_loop_manager = TreeAgentLoopManager.create(
        config=config,
        llm_client=LLMServerClient(config, router),
        teacher_client=None,
        reward_loop_worker_handles=[Reward.remote()],
    )
    trainer.global_steps = 1
    trainer.replay_buffer.poll_interval = 0.1
    return trainer


@pytest.fixture(scope="module")
def queue(ray_session: None, make_config: Any) -> Any:
    config = make_config(*TREES)
    tq.init(config.transfer_queue)
    yield config
    tq.close()


@pytest.fixture(scope="module")
def step(queue: Any) -> Step:
    """Rollouts, rewards and advantages of four prompts over two servers."""
    servers = [Server.remote(), Server.remote()]
    trainer = make_trainer(queue, servers)
    trainer._submit_batch_to_rollout(batch_of(QUESTIONS))
    batch, metrics = trainer.replay_buffer.sample(global_steps=1, partition_id="train", batch_size=len(QUESTIONS))
    scores = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=["rollout_log_probs"])
    old = TensorDict({"old_log_probs": scores["rollout_log_probs"]}, batch_size=len(batch))
    tq.kv_batch_put(keys=batch.keys, partition_id="train", fields=old)
    after = trainer._compute_advantage(batch, metrics)
    assert after.keys == batch.keys
    data = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=FIELDS)
    rows = {key: {name: data[name][i].numpy() for name in FIELDS} for i, key in enumerate(batch.keys)}
    return Step(rows, metrics, ray.get([server.seen.remote() for server in servers]), trainer, batch)


def reference_tree(step: Step, number: int) -> Tree:
    """The tree of a prompt as it grows over an engine of ours that draws as the stand-in does."""
    prompt_ids = step.rows[f"u{number}_0_0"]["prompts"].tolist()
    config = step.trainer.config
    seed = derive_seed(config.actor_rollout_ref.rollout.seed, 1, str(number), digest(str(prompt_ids)).hex())
    settings = tree_settings(config)
    rules = settings.rules(settings.shape(config.actor_rollout_ref.rollout), str)
    builder = TreeBuilder(f"u{number}", prompt_ids, seed, rules)
    engine, segments = ScriptedEngine(script, (EOS,)), builder.start()
    while not builder.done:
        for i, s in enumerate(segments):
            own = derive_seed(s.seed, len(s.prefix_ids))
            engine.submit(SampleRequest(i, s.prefix_ids, s.max_new_tokens, own, SamplingParams()))
        num_left, more = len(segments), []
        while num_left:
            for result in engine.step():
                num_left -= 1
                more += builder.receive(result.request_id, result)
        segments = more
    return builder.tree


@pytest.fixture(scope="module")
def references(step: Step) -> list[Tree]:
    return [reference_tree(step, number) for number in range(len(QUESTIONS))]


def test_metrics_of_trees(step, references):
    """Means over the trees of the batch."""
    assert step.metrics["trees/completion_tokens"] == np.mean([tree.response_lens().sum() for tree in references])
    assert step.metrics["trees/fallbacks"] == np.mean([tree.num_fallbacks for tree in references])


def test_leaves_are_sessions_of_their_prompts(step, references):
    """Leaf i of the tree is session i: the tokens of a tree grown by the same rules over an engine of ours."""
    assert sorted(step.rows) == [f"u{n}_{i}_0" for n in range(4) for i in range(4)]
    for number, tree in enumerate(references):
        for i, path in enumerate(tree.trajectories()):
            row = step.rows[f"u{number}_{i}_0"]
            assert row["responses"].tolist() == path.token_ids.tolist()
            assert row["rm_scores"].sum() == reward_of(path.token_ids.tolist()) == row["rm_scores"][-1]
            np.testing.assert_allclose(row["rollout_log_probs"], LOGPROB, rtol=1e-6)
    assert any(len(tree.nodes) > 5 for tree in references)


def test_advantages_are_those_of_this_package(step, references):
    """Whitened over the whole batch, as in a step of this package's own trainer; trees without signal get 0."""
    rewards = [np.array([reward_of(p.token_ids.tolist()) for p in tree.trajectories()]) for tree in references]
    found = compute_advantages(references, rewards, tree_settings(step.trainer.config).credit)
    assert any(advantages is not None for advantages in found.by_tree)
    for number, (tree, advantages) in enumerate(zip(references, found.by_tree, strict=True)):
        for i, path in enumerate(tree.trajectories()):
            row = step.rows[f"u{number}_{i}_0"]
            value = 0.0 if advantages is None else advantages.values[i]
            np.testing.assert_allclose(row["advantages"], np.full(len(path.token_ids), value), rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(row["advantages"], row["returns"])
    for name in ("raw_mean", "raw_std"):
        assert step.metrics[f"trees/advantages/{name}"] == pytest.approx(found.metrics[f"advantages/{name}"])
    decoded = [tree.num_decoded() for tree in references]
    assert step.metrics["trees/decoded_tokens"] == pytest.approx(np.mean(decoded))
    no_signal = np.mean([advantages is None for advantages in found.by_tree])
    assert step.metrics["trees/frac_reward_zero_std"] == pytest.approx(no_signal)


def test_grpo_is_verls_own(step, references):
    """An estimator that sees a tree's leaves as a flat group gives the advantages that verl computes itself."""
    PPOTrainerSync._compute_advantage(step.trainer, step.batch, {})
    data = tq.kv_batch_get(keys=step.batch.keys, partition_id="train", select_fields=["advantages"])
    theirs = dict(zip(step.batch.keys, data["advantages"].unbind(0), strict=True))
    for number, tree in enumerate(references):
        rewards = np.array([reward_of(path.token_ids.tolist()) for path in tree.trajectories()])
        for i, row in enumerate(token_advantages(tree, rewards, GRPO())):
            np.testing.assert_allclose(np.nan_to_num(row), theirs[f"u{number}_{i}_0"].numpy(), rtol=1e-4, atol=1e-6)


def test_verls_own_metrics_read_what_trees_leave(step):
    """The columns and tags of its own agent loops, the versions of the weights among them."""
    step.trainer._get_n_gpus_for_throughput = lambda: 1
    metrics: dict[str, float] = {}
    step.trainer._compute_metrics(step.batch, metrics, {"step": 1.0}, global_steps=4, epoch=0)
    lengths = [len(row["responses"]) for row in step.rows.values()]
    assert metrics["response_length/mean"] == pytest.approx(np.mean(lengths))
    assert metrics["training/off_policy/trajectory_staleness/max"] == 0


def test_a_tree_stays_on_one_server(step):
    """All segments of a tree go to the server that has its prefixes in the cache, each with a seed of its own."""
    servers = [{tuple(ids) for ids, _ in seen} for seen in step.requests]
    for number in range(len(QUESTIONS)):
        prompt = tuple(step.rows[f"u{number}_0_0"]["prompts"].tolist())
        begun = [any(ids[: len(prompt)] == prompt for ids in own) for own in servers]
        assert sum(begun) == 1
    assert all(step.requests)
    requests = [request for seen in step.requests for request in seen]
    assert len({params["seed"] for _, params in requests}) == len(requests)
    assert {params["logprobs"] for _, params in requests} == {True}
    assert max(params["max_tokens"] for _, params in requests) <= 32


def test_validation_samples_independent_responses(step):
    """As verl does, with the sampling of `val_kwargs`."""
    batch = batch_of(QUESTIONS[:1], uids="val")
    tu.assign_non_tensor_data(batch, "validate", True)
    tags = [{"is_prompt": True, "status": "pending", "global_steps": 1}]
    tq.kv_batch_put(keys=["val0"], partition_id="val", tags=tags)
    step.trainer.agent_loop_manager.generate_sequences(batch)
    found, _ = step.trainer.replay_buffer.sample(global_steps=1, partition_id="val", batch_size=1)
    assert sorted(found.keys) == ["val0_0_0", "val0_1_0"]


def test_rows_that_fill_a_batch_have_no_advantage(step):
    """verl adds copies of a row with one token, until a batch can be divided: they count in no mean."""
    keys = sorted(step.rows)[:12]
    batch = KVBatchMeta(keys=keys, tags=[{"global_steps": 1} for _ in keys], partition_id="train")
    metrics: dict[str, float] = {}
    put_advantages(batch, metrics, whiten=True)
    before = tq.kv_batch_get(keys=keys, partition_id="train", select_fields=["advantages"])["advantages"]
    filled = upsample_batch_to_divisible_size(batch, 8, EOS)
    assert len(filled.keys) == 16
    more: dict[str, float] = {}
    put_advantages(filled, more, whiten=True)
    after = tq.kv_batch_get(keys=filled.keys, partition_id="train", select_fields=["advantages"])["advantages"]
    for i, row in enumerate(after.unbind()):
        expected = before[i] if i < len(keys) else torch.zeros(1)
        torch.testing.assert_close(row, expected)
    assert more == metrics


def test_a_prompt_whose_server_fails_leaves_nothing_behind(step):
    """verl's replay buffer goes on with the other prompts; no row of the failed one is half written."""
    step.trainer._submit_batch_to_rollout(batch_of(["good", "a" * MAX_LEN], uids="f"))
    found, _ = step.trainer.replay_buffer.sample(global_steps=1, partition_id="train", batch_size=2)
    assert sorted(found.keys) == [f"f0_{i}_0" for i in range(4)]
