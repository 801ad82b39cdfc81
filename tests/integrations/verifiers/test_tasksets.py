"""Tasks of verifiers as problems, and their own scores as verdicts."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("verifiers.v1")

import verifiers.v1 as vf

from tests.models import save_tiny_model
from treepo.config.load import resolve
from treepo.data.datasets import Dataset, load_datasets
from treepo.data.formats import RecordFormat
from treepo.data.tasksets import _record, open_taskset, read_options
from treepo.errors import RecordError, SettingError
from treepo.model.policy import load_policy
from treepo.run.task import build_task
from treepo.verify import Outcome, TasksetVerifier
from treepo.verify.task import VerifiedTask


@pytest.fixture(autouse=True)
def tiny_sums(monkeypatch):
    """The taskset can be imported, as an installed one."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.delitem(sys.modules, "tiny_sums", raising=False)
    open_taskset.cache_clear()
    import tiny_sums

    return tiny_sums


def load(spec: str) -> Dataset:
    (dataset,) = load_datasets([f"verifiers:{spec}"], RecordFormat(), lambda text: [1], 100).datasets
    assert isinstance(dataset, Dataset)
    return dataset


def verdict(spec: str, response: str, index: int = 1, **fields):
    columns = load(spec).problems[index].columns
    verifier = TasksetVerifier(tasksets=(spec,), **fields)
    return verifier(response, "", taskset=columns["taskset"], task=columns["task"])


def test_problems_are_the_tasks_that_the_options_select():
    dataset = load("hub-user/tiny-sums@0.1?sign=plus&system=Be brief.&select.skip=2&select.limit=3")
    assert [p.prompt for p in dataset.problems] == ["2 plus 1 =", "3 plus 1 =", "4 plus 1 ="]
    assert dataset.problems[0].columns["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 plus 1 ="},
    ]
    assert dataset.problems[0].id.endswith(": task 2") and dataset.name == "hub-user/tiny-sums@0.1"


@pytest.mark.parametrize(
    ("response", "correct"),
    [
        ("2", 1.0),
        ("It is surely nothing but 2", 0.75),
        ("3", 0.25),
        ("no " * 20, 0.0),
        ("<think>1 and 1, so 3?</think>\n2", 1.0),
    ],
)
def test_the_reward_is_that_of_the_library(response, correct):
    """Weights times scores; reasoning is no part of what the task reads, as where the library's renderer parses it."""
    found = verdict("tiny_sums", response)
    assert (found.correct, found.outcome) == (correct, Outcome.GRADED)


def test_a_range_of_rewards_becomes_0_to_1_and_what_lies_outside_is_an_error():
    assert verdict("tiny_sums", "3", reward_range=(-0.25, 1.75)).correct == 0.25
    with pytest.raises(ValueError, match=r"the reward 1 lies outside of verifier.reward_range, 0 to 0.5"):
        verdict("tiny_sums", "2", reward_range=(0.0, 0.5))
    with pytest.raises(SettingError, match="reward_range"):
        TasksetVerifier(reward_range=(1.0, 0.0))


def test_a_record_runs_no_taskset_that_the_settings_do_not_name():
    """Records are data: one that named a package would run it."""
    columns = load("tiny_sums").problems[0].columns
    with pytest.raises(ValueError, match="verifier.tasksets does not"):
        TasksetVerifier()("1", "", taskset=columns["taskset"], task=columns["task"])


def test_a_taskset_of_the_library_opens_no_current_folder(tmp_path, monkeypatch):
    """A folder of the same name, such as one with data, put the current folder on sys.path."""
    (tmp_path / "textarena").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(RecordError):
        open_taskset("textarena?nothing=1")
    assert str(tmp_path) not in sys.path


def test_a_message_without_content_is_a_bad_record(tiny_sums):
    """It ended with a traceback."""
    opened = open_taskset("tiny_sums")
    task = next(iter(opened.tasks))
    task.data = task.data.model_copy(update={"prompt": [vf.AssistantMessage(content=None)]})
    with pytest.raises(RecordError, match="has no content"):
        _record(opened, task, "tiny_sums")


class NoReward(vf.Task[vf.TaskData]):
    """Nothing is scored."""


class InARuntime(NoReward):
    @vf.reward
    async def tests_pass(self, trace: vf.Trace, runtime: vf.Runtime) -> float:
        return 1.0


class Prepared(NoReward):
    async def setup(self, trace: vf.Trace, runtime: vf.Runtime) -> None: ...

    @vf.reward
    async def anything(self) -> float:
        return 1.0


class InAContainer(NoReward):
    NEEDS_CONTAINER = True


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (NoReward, "has no reward"),
        (InARuntime, r"scores in a runtime \(tests_pass; the option task.rewards .*\)"),
        (Prepared, r"prepares or collects something in a runtime \(Prepared.setup\)"),
        (InAContainer, "runs in a container"),
    ],
)
def test_what_needs_more_than_a_turn_is_refused(monkeypatch, tiny_sums, task, message):
    class Odd(vf.Taskset[task, vf.TasksetConfig]):
        def load(self):
            return [task(vf.TaskData(prompt="?"), self.config.task)]

    monkeypatch.setattr(tiny_sums, "Odd", Odd, raising=False)
    monkeypatch.setattr(tiny_sums, "__all__", ["Odd"])
    replaced = 'tiny_sums?task.rewards={"tests_pass": {"fn": "tiny_sums:half"}}'
    assert task is not InARuntime or verdict(replaced, "any", index=0).correct == 0.5
    with pytest.raises(SettingError, match=rf"^data.train: verifiers:tiny_sums {message}; a single turn"):
        load("tiny_sums")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("?select.limit=1", "names no taskset: verifiers:NAME"),
        ("nobody", "cannot open verifiers:nobody: .*taskset 'nobody' not found"),
        ("tiny_sums?num=3", "option 'num': Extra inputs are not permitted"),
        ("tiny_sums?num_tasks=few", "option 'num_tasks': .*got 'few'"),
        ("tiny_sums?select.limit=abc", "option 'select.limit': .*got 'abc'"),
        ("tiny_sums?select=5", "option 'select': .*got '5'"),
        ("tiny_sums?sign=%2B%2B", "option 'sign': .*one sign, or none, got"),
        ("tiny_sums?num_tasks", "option 'num_tasks' needs a value"),
        ("tiny_sums?num_tasks=0", "no record of 'verifiers:tiny_sums"),
    ],
)
def test_mistakes_are_told_in_a_line(spec, message):
    """Options of `select` were named without it, and what a validator says may have line breaks."""
    with pytest.raises(SettingError, match=rf"^data.train: .*{message}"):
        load(spec)


def test_a_taskset_without_end_needs_a_limit(monkeypatch, tiny_sums):
    monkeypatch.setattr(tiny_sums.SumTaskset, "INFINITE", True)
    with pytest.raises(SettingError, match="has no end: .*select.limit"):
        load("tiny_sums")
    assert len(load("tiny_sums?select.limit=7").problems) == 7


def test_options_nest_and_lists_are_json():
    assert read_options("a=1&b.c=x%26y&b.d=[1,2]") == {"a": "1", "b": {"c": "x&y", "d": [1, 2]}}
    for text in ("a=1&a=2", "a=1&a.b=2", "a=[1"):
        with pytest.raises(RecordError, match="option 'a'"):
            read_options(text)


def test_a_run_judges_with_the_tasks_in_worker_processes(tmp_path):
    config = resolve(
        {"data": {"train": "verifiers:tiny_sums", "eval": "verifiers:tiny_sums?num_tasks=2"}},
        {"tree": {"width": 2, "depth": 1, "segment_len": 4}, "verifier_pool": {"num_workers": 1}},
    )
    assert isinstance(config.verifier, TasksetVerifier) and config.prompt.question == "{question}"
    task = build_task(config, load_policy(str(save_tiny_model(tmp_path, chat=True))), 10_000)
    assert isinstance(task, VerifiedTask)
    try:
        held_out = task.eval_problems(9)
        assert [p.prompt for p in held_out] == ["0 + 1 =", "1 + 1 ="]
        assert [v.correct for v in task.verify([(held_out[0], "1"), (held_out[1], "7")])] == [1.0, 0.25]
    finally:
        task.close()
