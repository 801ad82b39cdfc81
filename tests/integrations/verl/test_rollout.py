"""Trees over servers that are asked for one segment at a time, and the advantages of their tokens."""

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trees import trees
from treepo.credit import GRPO, SPO, DrGRPO, TreePO
from treepo.engine.base import SampleResult
from treepo.errors import EngineError
from treepo.grow import Backtrack, EvenBranching, GrowthRules, InitialFork, StopRules, TreeShape
from treepo.grow.builder import Segment, TreeBuilder
from treepo.integrations.verl.manager import SegmentClient
from treepo.integrations.verl.rollout import grow_tree, token_advantages

pytestmark = [pytest.mark.verl, pytest.mark.filterwarnings("ignore")]

RULES = GrowthRules(
    shape=TreeShape(width=6, depth=3, segment_len=4),
    initial_fork=InitialFork(2, 2),
    branching=EvenBranching(),
    fallback=Backtrack(),
    stopping=StopRules(answer="never", repetition="never"),
    decode=str,
)


class Client:
    """verl's client over a server that answers after a while, the later requests first."""

    def __init__(self, outputs: Any = None) -> None:
        self.outputs = outputs
        self.sessions: set[str] = set()
        self.num_requests = self.num_cancelled = 0

    async def generate(self, session: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> Any:
        from verl.workers.rollout.replica import TokenOutput

        self.sessions.add(session)
        self.num_requests += 1
        try:
            await asyncio.sleep(0.02 / self.num_requests)
            if self.outputs:
                return TokenOutput(**self.outputs.pop())
            ids = [5 + (sampling_params["seed"] + i) % 40 for i in range(sampling_params["max_tokens"])]
            steps = {"global_steps": 7}
            return TokenOutput(token_ids=ids, log_probs=[-1.0] * len(ids), stop_reason="completed", extra_fields=steps)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise


def grow(client: Client, seed: int = 0) -> Any:
    segments = SegmentClient(client, {"temperature": 1.0}, eos_ids={2})
    return asyncio.run(grow_tree(TreeBuilder("p", [1, 3], seed, RULES), segments.generate)), segments


def test_trees_do_not_depend_on_the_order_of_answers():
    client = Client()
    (one, segments), (other, _) = grow(client), grow(Client())
    assert len(one.leaves()) == 6 and segments.versions == {7} and len(client.sessions) == 1
    for mine, theirs in zip(one.nodes, other.nodes, strict=True):
        assert mine.parent == theirs.parent and mine.token_ids.tolist() == theirs.token_ids.tolist()
    again, _ = grow(Client(), seed=1)
    assert [n.token_ids.tolist() for n in again.nodes] != [n.token_ids.tolist() for n in one.nodes]


@pytest.mark.parametrize(
    "output",
    [
        {"token_ids": [], "stop_reason": "aborted"},
        {"token_ids": [5, 6], "log_probs": [-1.0, -1.0], "stop_reason": "aborted"},
        {"token_ids": [5, 6], "log_probs": None, "stop_reason": "completed"},
        {"token_ids": [5, 6], "log_probs": [-1.0, float("nan")], "stop_reason": "completed"},
    ],
)
def test_what_a_server_cannot_answer_ends_the_tree(output):
    """An aborted segment is no end of a response, and its siblings are not waited for."""
    client = Client([output])
    with pytest.raises(EngineError):
        grow(client)
    assert client.num_requests == 2 and client.num_cancelled <= 1


def test_a_short_segment_ended_at_a_token_that_only_the_server_knows():
    segment = Segment(0, np.array([1, 3], np.int32), 8, 0, False)
    for ids, ended in (([5, 2], True), ([5, 6], True), (list(range(10, 18)), False), ([*range(10, 17), 2], True)):
        output = {"token_ids": ids, "log_probs": [-0.5] * len(ids), "stop_reason": "completed"}
        result: SampleResult = asyncio.run(SegmentClient(Client([output]), {}, {2}).generate(segment))
        assert result.ended is ended and result.token_ids.tolist() == ids


@given(trees(), st.integers(0, 2**32 - 1))
def test_advantages_of_tokens_are_the_estimators(tree, seed):
    rewards = np.random.default_rng(seed).integers(0, 2, len(tree.leaves())).astype(float)
    for estimator in (DrGRPO(), GRPO(), TreePO(), SPO()):
        rows = token_advantages(tree, rewards, estimator)
        if rewards.min() == rewards.max():
            assert all(np.isnan(row).all() for row in rows)
        elif not estimator.per_node:
            np.testing.assert_allclose([row[0] for row in rows], estimator(tree, rewards), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rewards_that_are_no_numbers_are_refused(bad):
    tree, _ = grow(Client())
    with pytest.raises(ValueError, match="finite"):
        token_advantages(tree, np.array([0.0, 1.0, 0.0, 1.0, 0.0, bad]), TreePO())
