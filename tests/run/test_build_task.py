"""From settings to problems: what is read, what is dropped, and what stops a run before it starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.models import save_tiny_model
from treepo.config.load import resolve
from treepo.config.schema import BUILT_IN_TASK
from treepo.data.prompts import PromptTemplate
from treepo.errors import SettingError
from treepo.model.policy import Policy, load_policy
from treepo.run.reasoning import for_prompts
from treepo.run.task import build_task
from treepo.tasks.chain_sums import ChainSums
from treepo.verify.numeric import NumericVerifier
from treepo.verify.task import VerifiedTask

TREE = {"width": 4, "depth": 2, "segment_len": 4}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load_policy(str(save_tiny_model(tmp_path_factory.mktemp("model"), chat=True)))


def write(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def sums(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"{i}+1?", "answer": str(i + 1)} for i in range(first, first + count)]


def build(policy: Policy, max_model_len: int = 10_000, **sections: Any) -> VerifiedTask:
    config = resolve(
        {"tree": TREE, "prompt": {"question": "{question}"}, "verifier_pool": {"num_workers": 1}}, sections
    )
    task = build_task(config, policy, max_model_len)
    assert isinstance(task, VerifiedTask)
    task.close()
    return task


def test_a_single_set_needs_no_brackets(policy: Policy, tmp_path: Path) -> None:
    """One name and a list of one name are the same setting."""
    path = write(tmp_path / "a.jsonl", *sums(30))
    one, other = (build(policy, data={"train": given}) for given in (path, [path]))
    assert one.training_problems(0, 5) == other.training_problems(0, 5)


def test_weights_say_how_often_a_set_is_asked(policy: Policy, tmp_path: Path) -> None:
    """Three to one over a block of 64, whatever their sizes."""
    paths = [write(tmp_path / "a.jsonl", *sums(30)), write(tmp_path / "b.jsonl", *sums(100, 100))]
    task = build(policy, data={"train": paths, "weights": [3.0, 1.0]})
    asked = [p.dataset for p in task.training_problems(0, 64)]
    assert (asked.count("a"), asked.count("b")) == (48, 16)


def test_a_verifier_that_does_not_recognise_the_ground_truths_stops_the_run(policy: Policy, tmp_path: Path) -> None:
    """Answers that are numbers, and a verifier that wants letters."""
    path = write(tmp_path / "sums.jsonl", *sums(30))
    with pytest.raises(
        ValueError, match=r"^verifier: ChoiceVerifier does not recognise 16 of 16 ground truths of 'sums'"
    ):
        build(policy, data={"train": path}, verifier={"use": "ChoiceVerifier"})
    build(policy, data={"train": path}, verifier={"use": "NumericVerifier"})


def test_a_verifier_that_cannot_be_imported_is_named_as_the_setting(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that calls sys.exit was a traceback, one that is not there was blamed on the first set of problems."""
    (tmp_path / "leaves_at_once.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = write(tmp_path / "sums.jsonl", *sums(30))
    for function, reason in (
        ("leaves_at_once:judge", r"SystemExit\(3\)"),
        ("not_there_at_all:judge", "ModuleNotFound"),
    ):
        message = f"^verifier.function: cannot be imported: {reason}.*, got '{function}'$"
        with pytest.raises(ValueError, match=message):
            build(policy, data={"train": path}, verifier={"use": "FunctionVerifier", "function": function})


def test_more_held_out_problems_than_a_machine_counts_are_all(policy: Policy, tmp_path: Path) -> None:
    """10^30 of them were an OverflowError."""
    task = build(policy, data={"eval": write(tmp_path / "a.jsonl", *sums(5))})
    assert [p.ground_truth for p in task.eval_problems(10**30)] == ["1", "2", "3", "4", "5"]
    assert len(task.eval_problems(2)) == 2 and task.eval_problems(0) == []


def test_an_odd_ground_truth_is_logged(policy: Policy, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that the verifier cannot read is named, and the run goes on."""
    letters = [{"prompt": f"{i}?", "answer": "ABCD"[i % 4]} for i in range(15)]
    path = write(tmp_path / "a.jsonl", {"prompt": "odd?", "answer": "no letter"}, *letters)
    build(policy, data={"eval": path}, verifier={"use": "ChoiceVerifier"})
    assert any("a ground truth of 'a' is not recognised: 'no letter'" in line for line in caplog.messages)


def test_what_is_dropped_is_logged(policy: Policy, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Prompts that are too long and questions that were asked before."""
    path = write(tmp_path / "a.jsonl", *sums(30), *sums(2), {"prompt": "long " * 50, "answer": "1"})
    build(policy, data={"train": path, "max_prompt_len": 30})
    assert "data.train: 1 of 31 problems dropped: prompts of more than 30 tokens" in caplog.messages
    assert "data.train: 2 problems dropped: duplicates in the same dataset" in caplog.messages


@pytest.mark.parametrize(
    ("max_model_len", "max_prompt_len", "room"),
    [(10_000, 1024, 512 - 8), (100, 1024, 100 - 8), (10_000, 30, 30), (38, 31, 38 - 8)],
)
def test_a_prompt_leaves_room_for_the_longest_response(
    max_model_len: int,
    max_prompt_len: int,
    room: int,
    policy: Policy,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A response of 8 tokens after it fits the model and what the engine holds, but with none to spare."""
    assert policy.max_len == 512
    (num_marks,) = {len(PromptTemplate(question="{question}").encode(policy.tokenizer, "x" * n)) - n for n in (1, 99)}
    longest_text = "y" * (room - num_marks)
    records = [{"prompt": text, "answer": "1"} for text in (longest_text, longest_text + "y")]
    data = {"eval": write(tmp_path / "a.jsonl", *records), "max_prompt_len": max_prompt_len}
    task = build(policy, max_model_len, data=data)
    assert [len(p.prompt_ids) for p in task.eval_problems(9)] == [room]
    assert f"data.eval: 1 of 2 problems dropped: prompts of more than {room} tokens" in caplog.messages


@pytest.mark.parametrize(("tree", "max_model_len"), [({"depth": 128}, 10_000), ({}, 8)])
def test_no_room_for_a_prompt_stops_the_run(
    tree: dict[str, Any], max_model_len: int, policy: Policy, tmp_path: Path
) -> None:
    """Responses as long as the model's positions, or as what the engine holds; with one token less there is room."""
    data = {"eval": write(tmp_path / "a.jsonl", {"prompt": "y", "answer": "1"}), "max_prompt_len": 1}
    with pytest.raises(ValueError, match=r"^tree: responses of \d+ tokens .* leave no room for a prompt"):
        build(policy, max_model_len=max_model_len, tree=tree, data=data)
    tree = tree | {"max_response_len": 511} if tree else tree
    with pytest.raises(ValueError, match="no problem has at most 1 prompt tokens"):
        build(policy, max_model_len=max_model_len + 1, tree=tree, data=data)


def test_the_built_in_task_needs_room_for_its_longest_prompt(policy: Policy) -> None:
    config = resolve({"tree": TREE})
    build_task(config, policy, 8 + ChainSums.max_prompt_tokens)
    with pytest.raises(ValueError, match="^tree: responses of 8 tokens"):
        build_task(config, policy, 8 + ChainSums.max_prompt_tokens - 1)


def test_problems_of_files_with_the_same_name_are_told_apart(policy: Policy, tmp_path: Path) -> None:
    """Train and held-out sets lie in folders of their own: no id stands for two problems."""
    paths = []
    for folder, first in (("train", 0), ("test", 100)):
        (tmp_path / folder).mkdir()
        paths.append(write(tmp_path / folder / "a.jsonl", *sums(5, first)))
    task = build(policy, data={"train": paths[0], "eval": paths[1]})
    assert {p.id for p in task.training_problems(0, 5)} == {f"train/a.jsonl:{i}" for i in range(1, 6)}
    assert {p.id for p in task.eval_problems(5)} == {f"test/a.jsonl:{i}" for i in range(1, 6)}


def test_a_weight_needs_something_to_draw(policy: Policy, tmp_path: Path) -> None:
    """A set to draw from that is held out as a whole, or whose prompts are all too long; without weights others do."""
    train = [write(tmp_path / "a.jsonl", *sums(10)), write(tmp_path / "b.jsonl", *sums(10, 100))]
    again = write(tmp_path / "again.jsonl", *sums(10, 100))
    with pytest.raises(ValueError, match="^data.weights: all problems of 'b' are in the evaluation$"):
        build(policy, data={"train": train, "weights": [1.0, 1.0], "eval": again})
    task = build(policy, data={"train": train, "eval": again})
    assert {p.dataset for p in task.training_problems(0, 20)} == {"a"}
    train[1] = write(tmp_path / "b.jsonl", {"prompt": "long " * 50, "answer": "1"})
    with pytest.raises(ValueError, match="^data.train: no problem of 'b' has at most 30 prompt tokens$"):
        build(policy, data={"train": train, "weights": [1.0, 1.0], "max_prompt_len": 30})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"train": "gsm8k=FILE", "prompt_field": "q"},
            "data.prompt_field: is for datasets that name no format, and all do, got 'q'",
        ),
        ({"train": "FILE", "weights": [1.0, 2.0]}, "data.weights: needs a number for each of 1 datasets"),
        ({"train": "FILE", "eval": "FILE"}, "data.train: all problems are in the evaluation"),
        ({"train": "FILE", "max_prompt_len": 1}, "data.train: no problem has at most 1 prompt tokens"),
        (
            {"train": "FILE", "prompt_field": "q"},
            r"data.train: a.jsonl:1: no field 'q'; there are \['answer', 'prompt'\]; data.prompt_field and",
        ),
    ],
)
def test_mistakes_name_the_setting(data: dict[str, Any], message: str, policy: Policy, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *sums(10))
    given = {k: v.replace("FILE", path) if isinstance(v, str) else v for k, v in data.items()}
    with pytest.raises(ValueError, match=message):
        build(policy, data=given)


@pytest.mark.parametrize("section", [{"verifier": {"use": "NumericVerifier"}}, {"prompt": {"system": "Think."}}])
def test_the_built_in_task_refuses_a_verifier_or_prompt_of_its_own(section: dict[str, Any], policy: Policy) -> None:
    """It took them, and went on with its own without a word."""
    with pytest.raises(SettingError, match=f"^{next(iter(section))}: the built-in task has its own"):
        build_task(resolve(BUILT_IN_TASK, section), policy, 10_000)


def test_where_prompts_end_in_think_answers_count_behind_it_alone(
    policy: Policy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A box in reasoning that the template had opened stopped the path and was judged."""
    path = write(tmp_path / "sums.jsonl", *sums(30))
    with caplog.at_level("INFO", "treepo"):
        task = build(policy, data={"train": path}, prompt={"question": "{question} <think>"})
    assert "prompts end with <think>" in caplog.text
    assert task.answers.answer_end("\\boxed{1}", ended=False) is None
    assert task.answers.answer_end("</think>\\boxed{1}", ended=False) == 17
    plain = build(policy, data={"train": path})
    assert plain.answers.answer_end("\\boxed{1}", ended=False) == 9


def test_prompts_of_which_some_end_in_think_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    verifier, decode = NumericVerifier(), lambda ids: "".join(map(chr, ids))
    prompts = [list(map(ord, text)) for text in ("1+1? <think>\n", "1+1?")]
    assert for_prompts(verifier, prompts, decode) == verifier
    assert "1 of 2 prompts end with <think>" in caplog.text
    assert for_prompts(verifier, prompts[:1], decode) == NumericVerifier(think_prefilled=True)
    assert for_prompts(verifier, [], decode) == verifier


def test_bad_records_end_the_run_or_are_named_in_the_log(
    policy: Policy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Twelve of them: ten are named, all are counted."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" + "no JSON\n" * (i < 12) for i, r in enumerate(sums(30))))
    with pytest.raises(SettingError, match=r"^data.train: a.jsonl:2: not JSON"):
        build(policy, data={"train": str(path)})
    task = build(policy, data={"train": str(path), "on_bad_record": "skip"})
    assert sum(len(d.problems) for d in (*task.train, *task.eval)) == 30
    (message,) = [line for line in caplog.messages if "skipped" in line]
    assert message.startswith("data.train: 12 bad records skipped: a.jsonl:2: not JSON")
    assert message.count("not JSON") == 10 and message.endswith("; ...")


def test_repeated_questions_are_dropped_in_training_alone(policy: Policy, tmp_path: Path) -> None:
    """An evaluation set lost them, and its figures were over another number of questions than others report."""
    train, evaluation = (
        write(tmp_path / f"{name}.jsonl", *sums(3, first), *sums(2, first)) for name, first in (("t", 0), ("e", 10))
    )
    task = build(policy, data={"train": train, "eval": evaluation})
    assert [p.id for p in task.train[0].problems] == ["t.jsonl:1", "t.jsonl:2", "t.jsonl:3"]
    assert [p.id for p in task.eval_problems(9)] == [f"e.jsonl:{n}" for n in range(1, 6)]


def test_prompts_in_a_shape_of_their_own_are_told_once(
    policy: Policy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What [prompt] does nothing for: special tokens of the template, an own system turn, an own prefill."""
    chats = [
        [{"role": "system", "content": "Own."}, {"role": "user", "content": f"{i}?"}]
        + [{"role": "assistant", "content": "So "}] * (i % 2)
        for i in range(10)
    ]
    templated = [{"prompt": f"<user>{i}+0?<assistant>", "answer": "1"} for i in range(5)]
    path = write(tmp_path / "a.jsonl", *({"prompt": chat, "answer": "1"} for chat in chats), *templated)
    build(policy, data={"eval": path}, prompt={"question": "{question}", "system": "Set.", "prefill": "Set: "})
    assert [line for line in caplog.messages if line.startswith("data.eval: ")] == [
        "data.eval: 5 of 15 prompts already hold special tokens of the chat template: they are used as they are, and "
        "the settings of [prompt] do nothing for them",
        "data.eval: 10 of 15 prompts have a system turn of their own, which is used instead of prompt.system",
        "data.eval: 5 of 15 prompts end in a turn of the assistant, which is used instead of prompt.prefill",
    ]
    caplog.clear()
    build(policy, data={"eval": write(tmp_path / "a.jsonl", *({"prompt": chat, "answer": "1"} for chat in chats))})
    assert caplog.messages == []


def test_a_missing_column_ends_the_run_before_it_starts(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the last record of a hundred, too."""
    (tmp_path / "own_judge.py").write_text("def judge(response, ground_truth, level):\n    return level == 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    records = [record | {"level": 3} for record in sums(99)]
    verifier = {"use": "FunctionVerifier", "function": "own_judge:judge"}
    build(policy, data={"eval": write(tmp_path / "a.jsonl", *records)}, verifier=verifier)
    with pytest.raises(SettingError, match="^verifier.function: needs the column 'level', which .* a.jsonl:100 lacks"):
        build(policy, data={"eval": write(tmp_path / "a.jsonl", *records, *sums(1, 200))}, verifier=verifier)
    with pytest.raises(SettingError, match="^verifier.function: needs the column 'level', which a record lacks"):
        build(policy, data={"eval": write(tmp_path / "a.jsonl", *sums(9))}, verifier=verifier)


def test_rationales_as_known_answers_are_told(policy: Policy, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """GSM8K's own file as one's own trained on rationales without a word; with the setting that is named it is fine."""
    records = [{"prompt": f"{i}+1?", "answer": f"{i} and one\nare <<{i}+1={i + 1}>>\n#### {i + 1}"} for i in range(30)]
    path = write(tmp_path / "raw.jsonl", *records)
    build(policy, data={"eval": path})
    assert any("'raw' (evaluation): 30 of 30 (100%) hold ####" in m and "answer_after" in m for m in caplog.messages)
    caplog.clear()
    task = build(policy, data={"eval": path, "answer_after": "####"})
    assert caplog.messages == [] and task.eval_problems(1)[0].ground_truth == "1"
