"""Tools from the chat template's prompt to the leaves of a tree, and training with them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import treepo
from tests.envs.test_tools import Counter, add
from tests.grow.scripts import NotedEngine
from tests.models import make_tiny_tokenizer, save_tiny_model
from treepo.config.load import resolve, to_toml
from treepo.data.problem import Problem
from treepo.engine.base import SamplingParams
from treepo.envs.chat import ChatTurns
from treepo.grow import TreeSampler
from treepo.run.sampler import growth_rules, turn_rules
from treepo.tree import StopReason, Tree
from treepo.verify import FinalAnswer

TEMPLATE = (
    "{% if tools %}<user>{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<assistant>{{ m['content'] }}<eos>"
    "{% else %}<user>{{ m['role'] }}:{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Writer:
    """A model that calls `add` with 3 and a number that its random stream says, and then writes the result."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, ids: np.ndarray, seed: int) -> tuple[int, float]:
        prompt, _, written = self.tokenizer.decode(ids.tolist()).rpartition("<assistant>")
        text = f'<tool_call>{{"name":"add","arguments":{{"a":3,"b":{seed % 5}}}}}</tool_call>'
        # A digit that was drawn stays as it was drawn.
        digit = text.index('"b":') + len('"b":')
        text = text[:digit] + written[digit : digit + 1] + text[digit + 1 :] if len(written) > digit else text
        if "tool:" in prompt:
            text = prompt.rpartition("tool:")[2][:1]
        rest = text[len(written) :]
        token = self.tokenizer.encode(rest[0])[0] if rest else self.tokenizer.eos_token_id
        return token, -0.5


def grown(**environment: Any) -> tuple[Tree, Any]:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    config = resolve(
        {
            "environment": {"tools": (add,), **environment},
            "tree": {"width": 6, "depth": 16, "segment_len": 16},
            "stopping": {"repetition": "never"},
        }
    )
    policy = cast(Any, SimpleNamespace(tokenizer=tokenizer, max_len=None))
    rules = growth_rules(config, tokenizer.decode, FinalAnswer(), turn_rules(config, policy))
    tools = config.environment.tool_set()
    assert tools is not None
    prompt_ids = tuple(config.prompt.encoder(tokenizer, tools.schemas)("3+?"))
    engine = NotedEngine(Writer(tokenizer), eos_ids=(tokenizer.eos_token_id,))
    problem = Problem("p", "3+?", prompt_ids, "")
    ((_, tree),) = TreeSampler(engine, rules, SamplingParams()).grow([problem], 0)
    return tree, tokenizer


def test_calls_are_made_where_paths_made_them():
    """Each path answers with what the tool returned for its own call; the result is observed, the rest sampled."""
    tree, tokenizer = grown()
    assert '"name":"add"' in tokenizer.decode(tree.prompt_ids.tolist()).replace(" ", "")
    results = set()
    for trajectory in tree.trajectories():
        assert trajectory.stop is StopReason.ENV_DONE
        observed = tokenizer.decode(trajectory.token_ids[trajectory.observed].tolist())
        call, _, answer = tokenizer.decode(trajectory.sampled_ids.tolist()).partition("</tool_call><eos>")
        result = str(3 + int(call[call.index('"b":') + 4]))
        assert (observed, answer) == (f"<user>tool:{result}<assistant>", f"{result}<eos>")
        results.add(result)
    assert len(results) > 1, "paths made different calls"


def test_the_limit_of_turns_holds_for_calls():
    tree, _ = grown(max_turns=1)
    assert {trajectory.stop for trajectory in tree.trajectories()} == {StopReason.TURNS}


@pytest.mark.parametrize("chat_template", [TEMPLATE[TEMPLATE.index("{% for m") :], None])
def test_where_the_template_has_no_place_for_tools_the_system_message_describes_them(chat_template):
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = chat_template
    tools = resolve({"environment": {"tools": (add,)}}).environment.tool_set()
    assert tools is not None
    messages = [{"role": "system", "content": "Hi."}, {"role": "user", "content": "3+?"}]
    text = tokenizer.decode(ChatTurns(tokenizer, tools=tools.schemas).prompt_ids(messages))
    assert 0 <= text.find("Hi.") < text.find("<tools>{") < text.find("3+?")
    encoder = resolve({"prompt": {"system": "Hi.", "question": "{question}"}}).prompt.encoder(tokenizer, tools.schemas)
    text = tokenizer.decode(encoder("3+?"))
    assert 0 <= text.find("Hi.") < text.find("<tools>{") < text.find("3+?")
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        + TEMPLATE[TEMPLATE.index("{% for m") :]
    )
    text = tokenizer.decode(ChatTurns(tokenizer, tools=tools.schemas).prompt_ids(messages[1:]))
    assert text.startswith("<user>user:3+?# Tools"), "where there is no system message either, the question does"


def test_tools_by_name_as_recipes_have_them():
    given = {"tools": "treepo.envs.interpreter:python", "tool_factory": "tests.envs.test_tools:Counter"}
    reward = {"functions": "treepo.envs.tools:get_reward", "correct": 0.0}
    config = resolve({"environment": given, "reward": reward, "verifier": {"use": "NoVerifier"}})
    tools = config.environment.tool_set()
    assert tools is not None and config.environment.is_given
    assert [schema["function"]["name"] for schema in tools.schemas] == ["python", "increase"]
    with pytest.raises(treepo.SettingError, match="environment.tools: cannot be imported"):
        resolve({"environment": {"tools": "treepo:nothing"}}).environment.tool_set()


def test_results_are_the_users_where_the_template_knows_no_tools():
    tokenizer = make_tiny_tokenizer()
    strict = "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no') }}{% endif %}"
    tokenizer.chat_template = strict + TEMPLATE.partition("{% for m in messages %}")[2]
    reply = ChatTurns(tokenizer).reply_ids([{"role": "user", "content": "a"}], [{"role": "tool", "content": "7"}], 2)
    assert tokenizer.decode(reply) == "<user>user:<tool_response>7</tool_response><assistant>"


def test_training_in_an_environment_of_trl(tmp_path: Path) -> None:
    """Its own reward counts, and functions get its objects; the settings name what the program gave."""
    seen: list[Any] = []

    def values(environments: list[Any], **_: Any) -> list[float]:
        seen.extend(environments)
        return [one.value for one in environments]

    model = save_tiny_model(tmp_path / "model", chat=True, max_position_embeddings=4096)
    config = treepo.TreePOConfig(
        output_dir=tmp_path / "run",
        tree={"width": 3, "depth": 2, "segment_len": 8},
        data={"max_prompt_len": 2000},
        max_steps=1,
        prompts_per_step=2,
        eval={"num_problems": 0},
    )
    rows = [{"prompt": f"{name}?", "start": number} for number, name in enumerate("abcd")]
    given = {"tools": [add], "environment_factory": Counter, "reward_funcs": [values]}
    with treepo.TreePOTrainer(str(model), config=config, train_dataset=rows, **given) as trainer:
        (step,) = trainer.steps()
        recipe = to_toml(trainer.config)
    assert all(type(one) is Counter for one in seen) and len(seen) == 6
    for tree, rewards in zip(step.trees, step.rewards, strict=True):
        assert rewards.tolist() == [2 * tree.environments[leaf].value for leaf in tree.leaves()]
    assert {"reward/values", "reward/get_reward"} <= step.metrics.keys()
    assert 'tool_factory = "tests.envs.test_tools:Counter"' in recipe and "test_tools:add" in recipe


def test_what_cannot_be_a_tool_is_said_before_anything_is_loaded():
    for given, message in (
        ({"tools": [3]}, "tools: must be functions"),
        ({"tools": ["add"]}, "tools: must be module:name"),
        ({"environment_factory": {"a": Counter}}, "tools: must be functions, or a class"),
        ({"tools": [add], "environment": Counter}, "tools: are for runs without environment.factory"),
    ):
        with pytest.raises(treepo.SettingError, match=message):
            treepo.TreePOTrainer("none", train_dataset=[{"prompt": "a"}], **cast(Any, given))
