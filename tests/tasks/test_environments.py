"""The built-in tasks of several turns: rules, exact rewards, corpora, and a step of training."""

import random
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import treepo
from experiments.environments import num_env_steps
from tests.parts import prepare
from treepo.config.load import read_recipe, resolve
from treepo.data.problem import Problem
from treepo.envs import check_forks
from treepo.envs.base import as_messages
from treepo.report.terminal import Terminal
from treepo.run.sample import sample_tree
from treepo.tasks.base import BuiltInTask, is_eval_prompt, make_tokenizer
from treepo.tasks.base_model import IGNORED, initial_model, labelled
from treepo.tasks.calculator import Calculator, CalculatorSums
from treepo.tasks.maze import DOORS, Layout, Maze, MazeGames
from treepo.tasks.registry import BUILT_IN_TASKS

RECIPES = Path(__file__).parents[2] / "recipes"
GAMES = {"maze": (Maze, MazeGames), "calculator": (Calculator, CalculatorSums)}
MOVES = st.sampled_from(["west1", "west3", "east5", "east1", "a", "b", "c", "d", "ab", "west", "7", "", "west3east8"])
CALLS = st.sampled_from(
    ["1+2=", "7-9=", "1+2=3;", "3;4+5=", "=", "", r"\boxed{5}", r"\boxed{", "12+=", "9" * 12 + "+1="]
)


def problem_of(name: str, seed: int = 0) -> Problem:
    prompt, truth = BUILT_IN_TASKS[name].draw(random.Random(seed))
    return Problem(prompt, prompt, (0,), truth)


def played(name: str, problem: Problem, turns: list[str]) -> tuple[list[str], float]:
    """What an environment replied, and its rewards in all."""
    environment = GAMES[name][0]()
    environment.reset(problem)
    replies, reward = [], 0.0
    for text in turns:
        turn = environment.step(text)
        reward += turn.reward
        replies += [message["content"] for message in as_messages(turn.messages)]
        if turn.done:
            break
    return replies, reward


def test_a_maze_is_won_by_who_reads_its_map():
    problem = Problem("p", "4821:at3,gate8:", (0,), "")
    doors = Layout.of(problem.prompt).doors
    replies, reward = played("maze", problem, ["west2", "west1", "east8", *doors])
    on_map = "".join(f"{i}{door}" for i, door in enumerate(doors, start=1))
    assert replies == ["at1", f"at0,{on_map}", *(f"hall{i}" for i in range(1, len(doors) + 1))]
    assert reward == 1


@pytest.mark.parametrize(
    "turns", [["west4"], ["east6"], ["a"], ["east5", "west3"], ["north3"], [""], ["east5", "wrong"], ["east5", "all"]]
)
def test_a_maze_is_lost_at_the_first_mistake(turns: list[str]) -> None:
    """Past the ends of the corridor, doors where there are none, back through the gate, what is no move."""
    problem = Problem("p", "4821:at3,gate8:", (0,), "")
    doors = Layout.of(problem.prompt).doors
    others: dict[str, str] = {"wrong": next(door for door in DOORS if door != doors[0]), "all": doors + "a"}
    maze = Maze()
    maze.reset(problem)
    ends = [maze.step(others.get(text, text)) for text in turns]
    assert [turn.done for turn in ends] == [False] * (len(turns) - 1) + [True]
    assert not any(turn.reward for turn in ends)


def test_a_calculator_answers_calls_and_ends_with_anything_else():
    problem = Problem("p", "34+58-47:", (0,), "45")
    calls = ["34+58=", "92-47=", r"\boxed{45}"]
    assert played("calculator", problem, calls) == (["92;", "45;"], 1)
    assert played("calculator", problem, [r"34+58=97;97-47=50;\boxed{50}"]) == ([], 0)
    assert played("calculator", problem, ["3-582=", r"1+1=2;\boxed{45}"]) == (["-579;"], 1)
    assert played("calculator", problem, ["92", *calls]) == ([], 0)


@pytest.mark.parametrize("name", GAMES)
@settings(max_examples=30)
@given(turns=st.lists(MOVES | CALLS, min_size=1, max_size=5), seed=st.integers(0, 9))
def test_forks_go_on_as_the_original_and_the_verdict_is_the_reward(name, turns, seed):
    """A verdict sees all turns as one text; how they are divided must not matter."""
    problem = problem_of(name, seed)
    if seed < 5:
        turns = [problem.ground_truth[: len(problem.ground_truth) // 2], *turns]
    check_forks(GAMES[name][0], turns, problem)
    environment, until_end, reward = GAMES[name][0](), [], 0.0
    environment.reset(problem)
    for text in turns:
        turn = environment.step(text)
        until_end.append(text)
        reward += turn.reward
        if turn.done:
            break
    (verdict,) = task_of(name).verify([(problem, "".join(until_end))])
    assert verdict.correct == reward


def task_of(name: str, seed: int = 0) -> BuiltInTask:
    task = BUILT_IN_TASKS[name]
    return task(make_tokenizer(task.tokens), seed)


@pytest.mark.parametrize("name", GAMES)
def test_problems_are_functions_of_the_seed_and_none_is_trained_and_held_out(name):
    task, task_class = task_of(name), BUILT_IN_TASKS[name]
    problems = task.training_problems(3, 20)
    assert problems == task_of(name).training_problems(3, 20) != task_of(name, seed=1).training_problems(3, 20)
    held_out = task.eval_problems(20)
    assert all(is_eval_prompt(p.prompt) for p in held_out) and not any(is_eval_prompt(p.prompt) for p in problems)
    assert max(len(p.prompt_ids) for p in problems + held_out) <= task_class.max_prompt_tokens
    verdicts = task.verify([(p, task.example_response(p.ground_truth)) for p in problems])
    assert all(verdict.correct == 1 for verdict in verdicts)
    own = make_tokenizer(task_class.tokens)
    assert own.decode(own.encode(problems[0].prompt)) == problems[0].prompt


@pytest.mark.parametrize(("name", "least", "most"), [("maze", 0.23, 0.33), ("calculator", 0.08, 0.18)])
def test_the_corpus_is_what_an_imperfect_player_does(name, least, most):
    """Replies are those of the environment, and as much is right as the base model's accuracy comes from."""
    task_class, count = BUILT_IN_TASKS[name], 600
    rewards = []
    for prompt, *texts in islice(task_class.draw_corpus(0, task_class.pretraining.careful_share), count):
        assert not is_eval_prompt(prompt)
        truth = str(eval(prompt[:-1])) if name == "calculator" else ""
        replies, reward = played(name, Problem(prompt, prompt, (0,), truth), texts[::2])
        assert replies == texts[1::2]
        rewards.append(reward)
    assert least < sum(rewards) / count < most


def test_a_base_model_learns_what_the_player_writes():
    tokenizer = make_tokenizer(MazeGames.tokens)
    ids, labels = labelled(("0:at1,gate4:", "east3", "hall1", "a"), tokenizer)
    assert tokenizer.decode([i for i in labels if i != IGNORED]) == "east3<eos>a<eos>"
    assert tokenizer.decode(ids) == "<bos>0:at1,gate4:east3<eos>hall1a<eos>"


@pytest.mark.parametrize("name", GAMES)
def test_a_task_is_trained_and_evaluated_in_its_environment(name, tmp_path):
    """As its recipe says; accuracy is what the environment gives. `treepo sample` asks its first problem: once it
    asked nothing, of which a maze cannot begin."""
    task = BUILT_IN_TASKS[name]
    tiny, tokenizer = replace(task.pretraining, hidden_size=32, ffn_size=32, num_layers=1), make_tokenizer(task.tokens)
    for part in (initial_model(0, tokenizer, tiny), tokenizer):
        part.save_pretrained(tmp_path / "model")
    small = {"train": {"prompts_per_step": 2}, "eval": {"num_problems": 4}, "model": {"path": str(tmp_path / "model")}}
    config = resolve(read_recipe(RECIPES / f"{name}_treepo.toml"), small)
    run = prepare(config, tmp_path / "run", Terminal(Console(quiet=True)))
    try:
        result = run.trainer.step(1)
        metrics = run.evaluate()
    finally:
        run.close()
    tree, _ = sample_tree(config, None, Terminal(Console(quiet=True)))
    assert tuple(tree.prompt_ids) == task(tokenizer, config.train.seed).training_problems(0, 1)[0].prompt_ids
    assert metrics["eval/avg"] == metrics["eval/reward/environment"]
    assert result.metrics["accuracy"] == result.metrics["reward/mean"]
    assert sum(map(num_env_steps, result.trees)) >= 2


def test_a_task_brings_its_environment():
    assert resolve({"task": {"name": "maze"}}).environment.factory == "maze"
    assert treepo.TreePOConfig(task={"name": "calculator"}).resolve().environment.load() is Calculator
    assert not resolve({"task": {"name": "maze"}, "data": {"train": ["own.jsonl"]}}).environment.is_given
    with pytest.raises(treepo.SettingError, match="does not go together with the built-in task 'chain_sums'"):
        resolve({"environment": {"factory": "maze"}})
    with pytest.raises(treepo.SettingError, match=r"must be module:name, maze or calculator"):
        resolve({"environment": {"factory": "chess"}})
