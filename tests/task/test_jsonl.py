"""Problems from JSON-lines files."""

import json
from collections import Counter

import pytest

from treepo.task.jsonl import JsonlFormat, JsonlTask, read_problems, split_held_out
from treepo.task.problem import Problem


def encode(text: str) -> list[int]:
    return list(text.encode())


def write(path, *records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def numbered(count: int) -> list[Problem]:
    return [Problem(f"f:{i}", f"question {i}", (i,), str(i)) for i in range(count)]


def test_fields_are_chosen_by_setting_and_numbers_taken_as_written(tmp_path):
    path = write(tmp_path / "p.jsonl", {"q": "1+1?", "a": 2}, {"q": "half?", "a": 0.5, "more": [1]})
    path.write_text(path.read_text().replace("0.5", "0.50"))
    problems = read_problems(path, JsonlFormat("q", "a"), encode)
    assert [(p.id, p.prompt, p.answer) for p in problems] == [
        ("p.jsonl:1", "1+1?", "2"),
        ("p.jsonl:2", "half?", "0.50"),
    ]
    assert problems[0].prompt_ids == tuple(b"1+1?")


def test_the_answer_follows_the_last_mark(tmp_path):
    path = write(tmp_path / "p.jsonl", {"prompt": "?", "answer": "#### no, wait\n#### 72 "})
    assert read_problems(path, JsonlFormat(answer_after="####"), encode)[0].answer == "72"


def test_separators_inside_json_strings_do_not_end_a_line(tmp_path):
    """str.splitlines also splits at U+2028, which JSON allows inside strings."""
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a\u2028b", "answer": "1"}\n{"prompt": "c", "answer": "2"}', encoding="utf-8")
    assert [p.prompt for p in read_problems(path, JsonlFormat(), encode)] == ["a\u2028b", "c"]


GOOD = '{"prompt": "a", "answer": "1"}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        (GOOD + "\n" + GOOD, "p.jsonl:2: empty line"),
        (GOOD + "{'prompt': 1}\n", "p.jsonl:2: not JSON"),
        (GOOD + "[1]\n", "p.jsonl:2: not a JSON object"),
        (
            GOOD + '{"question": "a", "answer": "1"}\n',
            r"p.jsonl:2: no field 'prompt'; there are \['answer', 'question'\]",
        ),
        (GOOD + '{"prompt": "a", "answer": null}\n', "p.jsonl:2: field 'answer' must be text or a number, got None"),
        (GOOD + '{"prompt": "a", "answer": true}\n', "p.jsonl:2: field 'answer' must be text or a number, got True"),
        (GOOD + '{"prompt": " ", "answer": "1"}\n', "p.jsonl:2: field 'prompt' is empty"),
        (GOOD + '{"prompt": "a", "answer": NaN}\n', "p.jsonl:2: not JSON: NaN is not a number"),
        (GOOD + '{"prompt": "\\ud800", "answer": 1}\n', "p.jsonl:2: field 'prompt' holds half a surrogate pair"),
        (GOOD + "[" * 100_000 + "\n", "p.jsonl:2: not JSON"),
    ],
)
def test_a_bad_line_is_named(text, message, tmp_path):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_problems(tmp_path / "p.jsonl", JsonlFormat(), encode)


def test_a_missing_mark_is_named(tmp_path):
    path = write(tmp_path / "p.jsonl", {"prompt": "?", "answer": "72"})
    with pytest.raises(ValueError, match="p.jsonl:1: no '####' in field 'answer'"):
        read_problems(path, JsonlFormat(answer_after="####"), encode)


def test_a_mark_with_nothing_behind_it_is_named(tmp_path):
    path = write(tmp_path / "p.jsonl", {"prompt": "?", "answer": "72 ####"})
    with pytest.raises(ValueError, match="p.jsonl:1: nothing after '####'"):
        read_problems(path, JsonlFormat(answer_after="####"), encode)


def test_a_prompt_without_tokens_is_named(tmp_path):
    path = write(tmp_path / "p.jsonl", {"prompt": "?", "answer": "72"})
    with pytest.raises(ValueError, match="data.held_out_path: p.jsonl:1: the prompt has no tokens"):
        read_problems(path, JsonlFormat(), lambda _: [], setting="data.held_out_path")


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9", "answer": 1}')
    for path in (tmp_path, tmp_path / "none.jsonl", tmp_path / "latin.jsonl"):
        with pytest.raises(ValueError, match=f"data.path: cannot read '{path}'"):
            read_problems(path, JsonlFormat(), encode)


def test_every_epoch_asks_each_problem_once_in_an_order_of_its_own():
    task = JsonlTask(numbered(10), [], seed=3)
    asked = [p.id for step in range(6) for p in task.training_problems(step, 5)]
    epochs = [asked[i : i + 10] for i in (0, 10, 20)]
    assert all(Counter(epoch) == Counter(p.id for p in task.train) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert asked != [p.id for step in range(6) for p in JsonlTask(numbered(10), [], 4).training_problems(step, 5)]


def test_steps_cross_the_end_of_an_epoch_and_ask_the_same_again():
    task = JsonlTask(numbered(3), [], seed=0)
    by_step = [p.id for step in range(3) for p in task.training_problems(step, 4)]
    at_once = [p.id for p in task.training_problems(0, 12)]
    assert by_step == at_once
    assert task.training_problems(2, 4) == task.training_problems(2, 4)


def test_held_out_problems_depend_on_their_text_alone():
    problems = numbered(500)
    train, held_out = split_held_out(problems)
    assert len(train) + len(held_out) == 500
    assert 25 <= len(held_out) <= 80
    again = split_held_out(problems[::-1][:250])[1]
    assert {p.id for p in again} == {p.id for p in held_out if p in problems[250:]}


def test_the_reward_is_the_last_box():
    task = JsonlTask([], [])
    problem = Problem("f:1", "?", (), "72")
    assert task.reward(problem, "first \\boxed{1}, no: \\boxed{72}.") == 1.0
    assert task.reward(problem, "72") == 0.0


def test_gsm8k_is_read_as_published(gsm8k):
    problems = read_problems(gsm8k, JsonlFormat("question", "answer", "####"), encode)
    assert len(problems) == 7473
    assert (problems[0].answer, problems[-1].id) == ("72", "gsm8k_train.jsonl:7473")
    assert all(p.answer.replace(",", "").lstrip("-").replace(".", "").isdigit() for p in problems)
