from __future__ import annotations

import random
import re
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from treepo.config.load import read_recipe, resolve
from treepo.data.problem import Problem, Task
from treepo.errors import SettingError
from treepo.tasks.base import encode_prompt, is_eval_prompt, make_tokenizer
from treepo.tasks.base_model import initial_model, make_base_model
from treepo.tasks.chain_sums import ChainSums, make_chain_tokenizer
from treepo.tasks.registry import BUILT_IN_TASKS, make_task, task_of_tokenizer
from treepo.tasks.settings import BaseModelSettings, TaskSettings
from treepo.tasks.start_sums import Starts, StartSums, answer_from, draw_starts

TOKENIZER = make_tokenizer(StartSums.tokens)
TASK = StartSums(TOKENIZER, seed=0)
drawn_starts = st.integers(min_value=0).map(lambda seed: draw_starts(random.Random(seed)))


def read(prompt: str) -> tuple[list[int], list[int], int]:
    """The starts, the steps, and which start is asked for, read from the prompt in another way than it is written."""
    found = re.fullmatch(r"X\d\dY\d\dZ\d\d(?:[a-h][+-]\d)+:([XYZ])", prompt)
    assert found is not None
    starts, steps = (re.findall(pattern, prompt) for pattern in (r"[X-Z](\d\d)", r"[+-]\d"))
    return [int(n) for n in starts], [int(n) for n in steps], "XYZ".index(found[1])


def correct(prompt: str, truth: str, response: str) -> float:
    return TASK.verify([(Problem(prompt, prompt, (1,), truth), response)])[0].correct


@given(drawn_starts)
def test_only_an_answer_from_the_right_start_is_right(drawn: Starts) -> None:
    """The verifier's truth is that of the prompt, read anew. No start leads out of 10-89; without a mistake, only the
    one that is asked for leads to the truth; and every answer fits into the response."""
    starts, steps, asked = read(drawn.prompt)
    assert 4 <= len(steps) <= 6 and drawn.value == starts[asked] + sum(steps)
    for taken, start in enumerate(starts):
        answer = answer_from(drawn, taken, [True] * len(drawn.steps))
        assert answer is not None and answer.startswith(f"{'XYZ'[taken]}{start};a{start}")
        assert all(eval(left) == int(right) for left, right in re.findall(r"(\d+[+-]\d)=(\d+)", answer))
        assert correct(drawn.prompt, str(drawn.value), answer) == float(taken == asked)
        assert len(TOKENIZER.encode(answer)) + 1 <= 116


def test_the_verifier_looks_at_the_last_box_alone() -> None:
    drawn = draw_starts(random.Random(1))
    truth = str(drawn.value)
    right = answer_from(drawn, drawn.asked, [True] * len(drawn.steps))
    assert correct(drawn.prompt, truth, f"{right}") == 1
    for other in (f"{right};", f"{right}\\boxed{{10}}", truth, f"\\boxed{{0{truth}}}", ""):
        assert correct(drawn.prompt, truth, other) == 0


def test_the_example_of_the_documentation() -> None:
    drawn = Starts((41, 62, 27), (-7, 7, 2, 3), 1)
    assert drawn.prompt == StartSums.example == "X41Y62Z27a-7b+7c+2d+3:Y"
    assert answer_from(drawn, 1, [True] * 4) == r"Y62;a62-2=60,60-5=55;b55+5=60,60+2=62;c62+2=64;d64+3=67;\boxed{67}"
    assert answer_from(drawn, 2, [True] * 4) == r"Z27;a27-7=20;b20+7=27;c27+2=29;d29+1=30,30+2=32;\boxed{32}"


def test_the_corpus_begins_at_the_right_start_as_often_as_said_and_is_never_held_out() -> None:
    pairs = list(islice(StartSums.draw_corpus(0, StartSums.pretraining.careful_share), 3000))
    right, solved = 0, 0
    for prompt, answer in pairs:
        starts, steps, asked = read(prompt)
        right += answer.startswith("XYZ"[asked])
        solved += answer.endswith(f"{{{starts[asked] + sum(steps)}}}")
    assert not any(is_eval_prompt(prompt) for prompt, _ in pairs)
    assert 0.37 < right / len(pairs) < 0.43
    assert 0.16 < solved / len(pairs) < 0.28
    assert 48 < sum(len(TOKENIZER.encode(answer)) for _, answer in pairs[:500]) / 500 < 68


def test_problems_are_a_function_of_seed_and_step() -> None:
    task: Task = StartSums(TOKENIZER, seed=3)
    problems = task.training_problems(step=5, count=60)
    assert problems == StartSums(TOKENIZER, seed=3).training_problems(step=5, count=60)
    others = StartSums(TOKENIZER, seed=4).training_problems(step=5, count=60) + task.training_problems(6, 60)
    held_out = StartSums(TOKENIZER, seed=4).eval_problems(60)
    assert held_out == task.eval_problems(80)[:60]
    prompts = [p.prompt for p in (*problems, *others, *held_out)]
    assert len(set(prompts)) == len(prompts)
    assert max(len(p.prompt_ids) for p in problems) == StartSums.max_prompt_tokens
    assert all(p.dataset == "start_sums" and TOKENIZER.decode(list(p.prompt_ids[1:])) == p.prompt for p in problems)


@pytest.mark.parametrize("name", ["start_sums_treepo", "start_sums_grpo"])
def test_recipes_differ_from_those_of_chain_sums_in_the_task_alone(name: str, pytestconfig: pytest.Config) -> None:
    own, other = (
        resolve(read_recipe(pytestconfig.rootpath / "recipes" / f"{n}.toml"))
        for n in (name, name.replace("start", "chain"))
    )
    assert own.task == TaskSettings("start_sums")
    assert {key for key, value in vars(own).items() if value != getattr(other, key)} == {"task"}


def test_a_model_is_asked_the_task_that_it_knows() -> None:
    assert set(BUILT_IN_TASKS) == {"chain_sums", "start_sums", "maze", "calculator"}
    for task in BUILT_IN_TASKS.values():
        tokenizer = make_tokenizer(task.tokens)
        assert task_of_tokenizer(tokenizer) is task
        assert isinstance(make_task(resolve({"task": {"name": task.name}}).task, tokenizer, 0), task)
    with pytest.raises(SettingError, match=r"task.name: the model knows the task 'chain_sums' alone"):
        make_task(TaskSettings("start_sums"), make_chain_tokenizer(), 0)


def test_the_base_model_goes_on_from_that_of_chain_sums(tmp_path: Path) -> None:
    """What it knows of digits and signs stays, the names of the starts begin at random."""
    settings = BaseModelSettings(num_steps=0)
    initial_model(1, make_chain_tokenizer(), settings).save_pretrained(tmp_path)
    model, tokenizer = make_base_model(0, settings=settings, task=StartSums, start=tmp_path)
    assert model.config.vocab_size == len(tokenizer) == len(StartSums.tokens) == 32
    assert len(encode_prompt(tokenizer, StartSums.example)) == len(StartSums.example) + 1
    before = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    fresh = initial_model(0, tokenizer, settings).state_dict()
    for name, value in model.state_dict().items():
        if "embed" not in name and "lm_head" not in name:
            assert torch.equal(value, before[name])
            continue
        for row, token in enumerate(StartSums.tokens):
            known = token in ChainSums.tokens
            expected = before[name][ChainSums.tokens.index(token)] if known else fresh[name][row]
            assert torch.equal(value[row], expected), token
