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
from treepo.tasks.chain_sums import Chain, ChainSums, make_chain_tokenizer, worked_answer
from treepo.tasks.registry import BUILT_IN_TASKS, make_task, task_of_tokenizer
from treepo.tasks.route_sums import LABELS, Routes, RouteSums, draw_routes
from treepo.tasks.settings import BaseModelSettings, TaskSettings

TOKENIZER = make_tokenizer(RouteSums.tokens)
TASK = RouteSums(TOKENIZER, seed=0)
routes = st.integers(min_value=0).map(lambda seed: draw_routes(random.Random(seed)))


def answer_along(drawn: Routes, taken: int, careful: bool = True) -> str | None:
    chain = Chain(drawn.start, drawn.steps[taken])
    return worked_answer(chain, [careful] * len(chain.steps), LABELS[taken])


def route_in(prompt: str) -> tuple[int, dict[str, list[int]], str]:
    """Start, the steps to each goal and the wanted goal, read from the prompt in another way than it is written."""
    wanted, start, rest = prompt[-1], int(prompt[:2]), prompt[2:-2]
    found = re.findall(r"([XYZ])((?:[a-o][+-]\d)+)", rest)
    return start, {goal: [int(n) for n in re.findall(r"[+-]\d", own)] for goal, own in found}, wanted


def correct(prompt: str, truth: str, response: str) -> float:
    return TASK.verify([(Problem(prompt, prompt, (1,), truth), response)])[0].correct


@given(routes)
def test_exactly_one_route_is_right_when_all_steps_are(drawn: Routes) -> None:
    """The verifier's truth is that of the prompt, read anew; a route that is followed without a mistake is right only
    if it leads to the wanted goal, and every answer fits into the response."""
    start, steps, wanted = route_in(drawn.prompt)
    assert len(steps) == len(LABELS) and {len(own) for own in steps.values()} <= {4, 5}
    assert drawn.value == start + sum(steps[wanted])
    for taken in range(len(LABELS)):
        answer = answer_along(drawn, taken)
        assert answer is not None and answer[0] == LABELS[taken][0]
        assert all(eval(left) == int(right) for left, right in re.findall(r"(\d+[+-]\d)=(\d+)", answer))
        assert correct(drawn.prompt, str(drawn.value), answer) == float(drawn.goals[taken] == wanted)
        assert len(TOKENIZER.encode(answer)) + 1 <= 96


def test_the_verifier_looks_at_the_last_box_alone() -> None:
    drawn = draw_routes(random.Random(1))
    truth = str(drawn.value)
    right = answer_along(drawn, drawn.right)
    assert correct(drawn.prompt, truth, f"{right}") == 1
    for other in (f"{right};", f"{right}\\boxed{{10}}", truth, f"\\boxed{{0{truth}}}", ""):
        assert correct(drawn.prompt, truth, other) == 0


def test_the_example_of_the_documentation() -> None:
    drawn = Routes(23, ((4, -7, 8, 6), (2, 9, -3, 5), (-4, 2, 6, 7)), "ZYX", "Y")
    assert drawn.prompt == RouteSums.example == "23Za+4b-7c+8d+6Yf+2g+9h-3i+5Xk-4l+2m+6n+7:Y"
    assert answer_along(drawn, 1) == r"f23+2=25;g25+5=30,30+4=34;h34-3=31;i31+5=36;\boxed{36}"
    assert answer_along(drawn, 1, careful=False) == r"f23+2=25;g25+9=24;h24-3=21;i21+5=26;\boxed{26}"


def test_the_corpus_takes_the_right_route_as_often_as_said_and_is_never_held_out() -> None:
    pairs = list(islice(RouteSums.draw_corpus(0, RouteSums.pretraining.careful_share), 3000))
    right, solved = 0, 0
    for prompt, answer in pairs:
        start, steps, wanted = route_in(prompt)
        right += list(steps)[[own[0] for own in LABELS].index(answer[0])] == wanted
        solved += answer.endswith(f"{{{start + sum(steps[wanted])}}}")
    assert not any(is_eval_prompt(prompt) for prompt, _ in pairs)
    assert 0.37 < right / len(pairs) < 0.43
    assert 0.20 < solved / len(pairs) < 0.30
    assert 48 < sum(len(TOKENIZER.encode(answer)) for _, answer in pairs) / len(pairs) < 64


def test_problems_are_a_function_of_seed_and_step() -> None:
    task: Task = RouteSums(TOKENIZER, seed=3)
    problems = task.training_problems(step=5, count=60)
    assert problems == RouteSums(TOKENIZER, seed=3).training_problems(step=5, count=60)
    others = RouteSums(TOKENIZER, seed=4).training_problems(step=5, count=60) + task.training_problems(6, 60)
    held_out = RouteSums(TOKENIZER, seed=4).eval_problems(60)
    assert held_out == task.eval_problems(80)[:60]
    prompts = [p.prompt for p in (*problems, *others, *held_out)]
    assert len(set(prompts)) == len(prompts)
    assert max(len(p.prompt_ids) for p in problems) == RouteSums.max_prompt_tokens
    assert all(p.dataset == "route_sums" and TOKENIZER.decode(p.prompt_ids[1:]) == p.prompt for p in problems)


@pytest.mark.parametrize("name", ["route_sums_treepo", "route_sums_grpo"])
def test_recipes_differ_from_those_of_chain_sums_in_the_task_alone(name: str, pytestconfig: pytest.Config) -> None:
    own, other = (
        resolve(read_recipe(pytestconfig.rootpath / "recipes" / f"{n}.toml"))
        for n in (name, name.replace("route", "chain"))
    )
    assert own.task == TaskSettings("route_sums")
    assert {key for key, value in vars(own).items() if value != getattr(other, key)} == {"task"}


def test_a_model_is_asked_the_task_that_it_knows() -> None:
    assert set(BUILT_IN_TASKS) == {"chain_sums", "route_sums"}
    for task in BUILT_IN_TASKS.values():
        tokenizer = make_tokenizer(task.tokens)
        assert task_of_tokenizer(tokenizer) is task
        assert isinstance(make_task(TaskSettings(task.name), tokenizer, 0), task)
    with pytest.raises(SettingError, match=r"task.name: the model knows the task 'chain_sums' alone"):
        make_task(TaskSettings("route_sums"), make_chain_tokenizer(), 0)


def test_the_base_model_goes_on_from_that_of_chain_sums(chain_model: Path) -> None:
    """What it knows of digits and signs stays, letters that chain sums do not have begin at random."""
    settings = BaseModelSettings(num_steps=0)
    model, tokenizer = make_base_model(0, settings=settings, task=RouteSums, start=chain_model)
    assert model.config.vocab_size == len(tokenizer) == len(RouteSums.tokens) == 39
    assert len(encode_prompt(tokenizer, RouteSums.example)) == len(RouteSums.example) + 1
    before = AutoModelForCausalLM.from_pretrained(chain_model).state_dict()
    fresh = initial_model(0, tokenizer, settings).state_dict()
    for name, value in model.state_dict().items():
        if "embed" not in name and "lm_head" not in name:
            assert torch.equal(value, before[name])
            continue
        for row, token in enumerate(RouteSums.tokens):
            known = token in ChainSums.tokens
            expected = before[name][ChainSums.tokens.index(token)] if known else fresh[name][row]
            assert torch.equal(value[row], expected), token
