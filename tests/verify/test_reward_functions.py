"""Reward functions as TRL calls them, abstentions, reward models and judges."""

import asyncio
import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForSequenceClassification

from tests.models import save_tiny_model
from treepo.credit import GRPO, TreePO
from treepo.data.problem import Problem
from treepo.errors import SettingError, StrategyError
from treepo.learn.advantages import compute_advantages, in_whole_tree, rewarded_part
from treepo.tree import Node, StopReason, Tree
from treepo.verify import LLMJudge, RewardModel
from treepo.verify.reward_functions import Answers, call_functions, function_names, without_gaps
from treepo.verify.rewards import ShapedReward
from treepo.verify.shaping import total


def answers_of(texts: list[str], correct: list[float] | None = None, **columns: Any) -> Answers:
    lengths = np.array([len(text) for text in texts])
    return Answers(
        correct=np.array(correct or [0.0] * len(texts)),
        texts=tuple(texts),
        lengths=lengths,
        finished=np.ones(len(texts), bool),
        max_response_tokens=100,
        problem=Problem("p", "What?", (1,), "7", columns=columns),
        token_ids=tuple([1] * n for n in lengths),
        stops=(StopReason.EOS,) * len(texts),
    )


def tree_of_four() -> Tree:
    """Two forks of two leaves each."""
    tree = Tree.from_prompt("p", np.array([1]), 0)
    for fork in range(2):
        above = tree.add(Node(0, np.array([fork]), np.zeros(1, np.float32), fork))
        for leaf in range(2):
            tree.add(Node(above, np.array([leaf, 5]), np.zeros(2, np.float32), leaf, StopReason.EOS))
    return tree


@pytest.mark.parametrize("estimator", [GRPO(), TreePO()])
@pytest.mark.parametrize("silent", range(4))
def test_an_answer_that_all_abstain_from_might_not_be_there(estimator: Any, silent: int) -> None:
    """It counted as 0, and lowered the baseline of the others."""
    tree, rewards = tree_of_four(), np.array([1.0, 0.0, 0.5, 0.25])
    rewards[silent] = np.nan
    part, known = rewarded_part(tree, rewards)
    assert len(part.leaves()) == 3
    expected = compute_advantages([part], [known], estimator).by_tree[0]
    whole = in_whole_tree(expected, tree, rewards)
    whole.check_shape(tree)
    others = [i for i in range(4) if i != silent]
    if not estimator.per_node:
        assert whole.values[silent] == 0
        np.testing.assert_array_equal(whole.values[others], expected.values)


def test_a_function_that_abstains_leaves_its_baseline_alone() -> None:
    """Beside a verifier: its mean over the other answers stands for it, so that GRPO's difference is 0 there."""
    reward = ShapedReward(functions=(lambda completions: [1.0, None, 3.0],), function_weights=(0.5,))
    parts = reward(answers_of(["a", "b", "c"], correct=[1.0, 0.0, 0.0]))
    np.testing.assert_allclose(parts["<lambda>"], [0.5, 1.0, 1.5])
    assert without_gaps(np.array([np.nan, np.nan])).tolist() == [0.0, 0.0]


def test_without_a_verifier_an_abstention_is_no_reward() -> None:
    def one(completions: list[str]) -> list[float | None]:
        return [None, None, 2.0]

    def other(completions: list[str]) -> list[float | None]:
        return [None, 1.0, 3.0]

    reward = ShapedReward(correct=0.0, functions=(one, other), function_weights=(1.0, 10.0))
    np.testing.assert_allclose(total(reward(answers_of(["a", "b", "c"]))), [np.nan, 12.0, 32.0])
    (alone,), _ = ShapedReward(correct=0.0, functions=(one,)).of_step([answers_of(["a", "b", "c"])])
    np.testing.assert_allclose(total(alone), [np.nan, np.nan, 2.0])


def test_answers_without_a_reward_explain_no_length() -> None:
    """One abstention made every reward of its tree nan."""
    reward = ShapedReward(correct=0.0, length_neutral=True, functions=(lambda completions: [1.0, 2.0, None, 5.0],))
    whole = total(reward(answers_of(["a", "bb", "ccc", "dddd"])))
    others = replace(reward, functions=(lambda completions: [1.0, 2.0, 5.0],))
    np.testing.assert_allclose(whole[[0, 1, 3]], total(others(answers_of(["a", "bb", "dddd"]))), atol=1e-12)
    assert np.isnan(whole[2])


def test_all_answers_of_a_step_are_given_at_once_and_async_functions_run_together() -> None:
    """Each waits for the other: one after the other they would never end."""
    calls: list[int] = []
    first, second = {}, {}

    async def meet(mine: dict, other: dict, count: int) -> list[float]:
        mine["here"] = True
        while "here" not in other:
            await asyncio.sleep(0.001)
        return [1.0] * count

    async def one(prompts: list[str], **columns: Any) -> list[float]:
        calls.append(len(prompts))
        return await meet(first, second, len(prompts))

    async def two(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        calls.append(len(completion_ids))
        return await meet(second, first, len(completion_ids))

    async def in_a_notebook() -> Any:
        return call_functions([one, two], ["one", "two"], [answers_of(["a"]), answers_of(["b", "c"])])

    values, _ = asyncio.run(asyncio.wait_for(in_a_notebook(), 20))
    assert calls == [3, 3]
    assert [[own.tolist() for own in of_tree] for of_tree in values] == [[[1.0], [1.0]], [[1.0, 1.0], [1.0, 1.0]]]


def test_a_conversation_is_given_as_messages() -> None:
    seen: dict[str, Any] = {}

    def reward(prompts: list[Any], completions: list[Any]) -> list[float]:
        seen.update(prompts=prompts, completions=completions)
        return [0.0] * len(prompts)

    messages = [{"role": "user", "content": "What?"}]
    call_functions([reward], ["r"], [answers_of(["7"], prompt=messages)])
    assert seen == {"prompts": [messages], "completions": [[{"role": "assistant", "content": "7"}]]}


@pytest.mark.parametrize(
    "returned", [None, 1.0, [1.0], ["1.0", "2.0"], [float("inf"), 1.0], [[1.0], [2.0]], {"a": 1.0}, [1j, 1.0]]
)
def test_what_is_no_list_of_numbers_is_refused(returned: Any) -> None:
    with pytest.raises(StrategyError, match="reward: mine"):
        call_functions([lambda completions: returned], ["mine"], [answers_of(["a", "b"])])


@pytest.mark.parametrize(
    "returned",
    [[1, 0], (True, False), np.array([1.0, 0.0]), torch.tensor([1.0, 0.0]), [np.float32(1), torch.tensor(0)]],
)
def test_numbers_of_any_library_are_taken(returned: Any) -> None:
    (((values,),), _) = call_functions([lambda completions: returned], ["mine"], [answers_of(["a", "b"])])
    assert values.tolist() == [1.0, 0.0]


def test_logged_values_are_numbers_and_texts_one_per_answer() -> None:
    """Files hold nothing else; values of too few answers stood beside those of others."""
    values = [None, True, 2, 0.5, np.float32(0.5), np.array(3), math.nan, [1], "x" * 2000]

    def reward(prompts: list[str], log_extra: Callable[..., None]) -> list[float]:
        log_extra("seen", values[: len(prompts)])
        log_extra("array", np.arange(len(prompts)))
        return [0.0] * len(prompts)

    _, log = call_functions([reward], ["r"], [answers_of(["a"] * 4), answers_of(["b"] * 5)])
    assert log.columns["seen"] == [None, True, 2, 0.5, 0.5, 3, "nan", "[1]", "x" * 1000]
    assert log.columns["array"] == list(range(9))
    with pytest.raises(StrategyError, match="'seen'.* 10 values, one per answer, got 9"):
        call_functions([reward], ["r"], [answers_of(["a"] * 10)])


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingError, match="mine asks for 'level'; there are .*answer"):
        call_functions([lambda level: [0.0]], ["mine"], [answers_of(["a"], answer="7")])


def test_functions_of_one_name_are_told_apart() -> None:
    assert function_names([str, str, "rewards:short", "org/model"]) == ["str", "str_2", "short", "model"]


def test_a_function_with_the_name_of_a_component_stands_beside_it() -> None:
    """One that was called `correct` took the place of the verifier's verdict, and nobody was told."""

    def correct(completions: list[str]) -> list[float]:
        return [10.0] * len(completions)

    parts = ShapedReward(functions=(correct,))(answers_of(["a"], [1.0]))
    assert {name: values.tolist() for name, values in parts.items()} == {"correct": [1.0], "correct_2": [10.0]}
    assert list(ShapedReward(correct=0.0, functions=(correct,))(answers_of(["a"], [1.0]))) == ["correct"]


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny_model(tmp_path_factory.mktemp("reward") / "model")
    config = Qwen2Config.from_pretrained(folder, num_labels=1, pad_token_id=0)
    torch.manual_seed(0)
    Qwen2ForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_reward_model_scores_as_one_by_one(reward_model: Path) -> None:
    """Batches of texts of different lengths give what each alone gives, by transformers itself."""
    prompts, completions = ["What is it?"] * 5, ["a", "bb bb bb bb", "ccc", "", "d d d d d d d d"]
    scores = RewardModel(str(reward_model), batch_size=2)(prompts, completions)
    model = Qwen2ForSequenceClassification.from_pretrained(reward_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    for prompt, completion, score in zip(prompts, completions, scores, strict=True):
        ids = tokenizer(prompt + completion, return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            assert model(**ids).logits[0, 0].item() == pytest.approx(score, abs=1e-5)
    reward = ShapedReward(correct=0.0, functions=(str(reward_model),)).loaded()
    assert reward.loaded().functions[0] is reward.functions[0]
    parts = reward(answers_of(completions))
    np.testing.assert_allclose(parts["model"], RewardModel(str(reward_model))(["What?"] * 5, completions), atol=1e-5)


def test_a_policy_is_no_reward_model(tmp_path: Path) -> None:
    """transformers would score with a random head."""
    folder = save_tiny_model(tmp_path / "model")
    with pytest.raises(SettingError, match=r"is no reward model: its weights lack 'score.weight'"):
        RewardModel(str(folder))(["a"], ["b"])


class JudgeHandler(BaseHTTPRequestHandler):
    """Answers with what the question holds after `reply:`, in two parts: only the first one was read."""

    def do_POST(self) -> None:
        """One chat completion."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][0]["content"].partition("reply:")[2].partition("\n")[0]
        if text == "500":
            self.send_error(500)
            return
        reply = text if text.startswith("{") else json.dumps({"choices": [{"message": {"content": text}}]})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(reply[:20].encode())
        time.sleep(0.02)
        self.wfile.write(reply[20:].encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_a_judge_gives_scores_and_abstains_where_it_gives_none() -> None:
    server = HTTPServer(("127.0.0.1", 0), JudgeHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    judge = LLMJudge(f"http://127.0.0.1:{server.server_port}/v1", "judge", max_retries=0)
    replies = ["Score: 10", "fine. Score: 4\nno, Score: 5.", "Score: 99", "none", "500", '{"choices": []}', "Score: -3"]
    one = answers_of([f"reply:{text}\n" for text in replies])
    (((values,),), _) = call_functions([judge], ["judge"], [one])
    server.shutdown()
    server.server_close()
    np.testing.assert_allclose(values, [1.0, 0.4, 1.0, np.nan, np.nan, np.nan, 0.0])
    gone = replace(judge, timeout_s=5.0)
    assert np.isnan(call_functions([gone], ["judge"], [answers_of(["a"])])[0][0][0]).all()
