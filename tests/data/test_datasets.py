"""Sets of problems, and the task made of them."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.data.datasets import Dataset, DatasetTask, load_datasets, split_problems, split_train_eval
from treepo.data.formats import RecordFormat
from treepo.data.problem import Problem
from treepo.utils.numeric import derive_seed


def encode(text: str) -> list[int]:
    return list(text.encode())


def numbered(count: int, name: str = "f") -> Dataset:
    return Dataset(name, tuple(Problem(f"{name}:{i}", f"{name} asks {i}", (i,), str(i), name) for i in range(count)))


def write(path, *records):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def asked(task: DatasetTask, steps: range, count: int) -> list[str]:
    return [problem.id for step in steps for problem in task.training_problems(step, count)]


def test_one_set_is_asked_in_the_order_of_runs_before_there_were_several():
    """Position i of the run is place i mod size of epoch i div size, whose permutation is seeded by its number."""
    task = DatasetTask((numbered(10),), (), seed=3)
    orders = [np.random.default_rng(derive_seed(3, "epoch", epoch)).permutation(10) for epoch in range(3)]
    assert asked(task, range(5), 6) == [f"f:{i}" for i in np.concatenate(orders)]


def test_every_epoch_asks_each_problem_once_in_an_order_of_its_own():
    task = DatasetTask((numbered(7), numbered(3, "g")), (), seed=3)
    ids = asked(task, range(6), 5)
    epochs = [ids[i : i + 10] for i in (0, 10, 20)]
    assert all(Counter(epoch) == Counter(p.id for s in task.train for p in s.problems) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert ids != asked(DatasetTask(task.train, (), seed=4), range(6), 5)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([(), (1.0, 1.0, 8.0)]), st.integers(1, 9), st.integers(0, 5))
def test_steps_of_any_size_ask_the_same_sequence(weights, count, seed):
    """So a run goes on in the middle of an epoch from the number of its step alone, or where its steps are of different
    sizes from the number of problems before."""
    task = DatasetTask((numbered(3), numbered(5, "g"), numbered(2, "h")), (), weights, seed)
    assert asked(task, range(6), count) == asked(task, range(1), 6 * count)
    assert task.training_problems(4, count) == task.training_problems(4, count)
    assert task.training_problems(4, count) == task.training_problems(1, count, start=4 * count)


def test_weights_say_how_often_a_set_is_asked():
    """A set of 3 problems is asked as often as one of 50, each problem of either once in each of its epochs."""
    task = DatasetTask((numbered(3), numbered(50, "g")), (), (1, 1), seed=1)
    ids = asked(task, range(10), 64)
    by_set = {name: [i for i in ids if i.startswith(name)] for name in "fg"}
    assert len(by_set["f"]) == len(by_set["g"]) == 320
    for name, size in (("f", 3), ("g", 50)):
        for start in range(0, 320 - size, size):
            assert len(set(by_set[name][start : start + size])) == size


def test_sets_of_a_mixture_have_orders_of_their_own():
    """Two sets of one size, such as translations of each other, are not asked side by side."""
    ids = asked(DatasetTask((numbered(50), numbered(50, "g")), (), (1, 1)), range(1), 128)
    assert [i[2:] for i in ids if i.startswith("f")] != [i[2:] for i in ids if i.startswith("g")]


def test_weights_that_fit_no_set_are_refused():
    with pytest.raises(ValueError, match="weights: needs a number for each of 2 datasets"):
        DatasetTask((numbered(3), numbered(3, "g")), (), (1.0,))
    with pytest.raises(ValueError, match=r"weights: no problem is left to train on in \['g'\]"):
        DatasetTask((numbered(3), numbered(0, "g")), (), (1.0, 1.0))
    with pytest.raises(ValueError, match="weights: must be positive numbers"):
        DatasetTask((numbered(3),), (), (0.0,))


def test_evaluation_problems_are_of_all_sets_and_fewer_are_the_first_of_more():
    task = DatasetTask((), (numbered(4, "f"), numbered(1, "g"), numbered(2, "h")))
    ids = [problem.id for problem in task.eval_problems(100)]
    assert ids == ["f:0", "g:0", "h:0", "f:1", "h:1", "f:2", "f:3"]
    assert all([p.id for p in task.eval_problems(n)] == ids[:n] for n in range(9))
    assert DatasetTask((numbered(3),), ()).eval_problems(5) == []
    assert [p.id for p in DatasetTask((), (numbered(4),)).eval_problems(2)] == ["f:0", "f:1"]


def test_evaluation_problems_depend_on_their_text_alone():
    problems = list(numbered(500).problems)
    train, evaluation = split_problems(problems)
    assert len(train) + len(evaluation) == 500
    assert 25 <= len(evaluation) <= 80
    again = split_problems(problems[::-1][:250])[1]
    assert {p.id for p in again} == {p.id for p in evaluation if p in problems[250:]}


def test_the_same_problems_are_held_out_as_ever():
    """Else a model trained before would be evaluated on what it was trained on."""
    texts = [f"question {i}" for i in range(40)]
    evaluation = split_problems([Problem(text, text, (1,), "1") for text in texts])[1]
    assert [p.prompt for p in evaluation] == [f"question {i}" for i in (10, 19, 31, 33)]


def test_without_evaluation_datasets_one_in_ten_of_each_dataset_is_held_out():
    train, evaluation = split_train_eval([numbered(300, "f"), numbered(200, "g")])
    assert [s.name for s in train] == [s.name for s in evaluation] == ["f", "g"]
    assert [len(a.problems) + len(b.problems) for a, b in zip(train, evaluation, strict=True)] == [300, 200]


def test_a_question_that_is_held_out_is_trained_on_nowhere():
    """Also where it stands in another set, with other blanks, or is too few to be held out of its own."""
    one, other = numbered(5, "f"), numbered(5, "g")
    copy = Problem("x", " f asks\n 3 ", (1,), "3")
    train, evaluation = split_train_eval(
        [one, Dataset("g", (*other.problems, copy))], [Dataset("h", one.problems[2:4])]
    )
    assert [[p.id for p in s.problems] for s in train] == [["f:0", "f:1", "f:4"], [p.id for p in other.problems]]
    assert [s.name for s in evaluation] == ["h"]
    train, evaluation = split_train_eval([one], [one])
    assert [s.problems for s in train] == [()]
    assert evaluation == (one,)


def test_records_that_ask_the_same_are_read_once(tmp_path):
    """The first stays; the published DAPO-17k holds every problem a hundred times."""
    path = write(
        tmp_path / "p.jsonl",
        *({"prompt": prompt, "answer": i} for i, prompt in enumerate(["a", "b", "a", " a\n", "b b", "b  b"])),
    )
    read = load_datasets([path], RecordFormat(), encode, 10)
    assert [(p.id, p.ground_truth) for p in read.datasets[0].problems] == [
        ("p.jsonl:1", "0"),
        ("p.jsonl:2", "1"),
        ("p.jsonl:5", "4"),
    ]
    assert (read.num_duplicates, read.num_too_long) == (3, 0)


def test_problems_that_do_not_fit_are_counted(tmp_path):
    path = write(tmp_path / "p.jsonl", *({"prompt": "a" * n, "answer": 1} for n in range(1, 7)))
    read = load_datasets([path], RecordFormat(), encode, 4)
    assert [len(p.prompt_ids) for p in read.datasets[0].problems] == [1, 2, 3, 4]
    assert read.num_too_long == 2


def test_ids_of_files_with_the_same_name_differ_and_stay(tmp_path):
    paths = [write(tmp_path / folder / "train.jsonl", {"prompt": folder, "answer": 1}) for folder in "ab"]
    read = load_datasets(paths, RecordFormat(), encode, 10)
    assert [p.id for s in read.datasets for p in s.problems] == ["a/train.jsonl:1", "b/train.jsonl:1"]
    assert [p.dataset for s in read.datasets for p in s.problems] == ["a/train.jsonl", "b/train.jsonl"]
    apart = [
        load_datasets([paths[i]], RecordFormat(), encode, 10, other_sources=[paths[1 - i]]).datasets[0] for i in (0, 1)
    ]
    assert [s.problems[0].id for s in apart] == ["a/train.jsonl:1", "b/train.jsonl:1"]
    alone = load_datasets(paths[:1], RecordFormat(), encode, 10, other_sources=paths[:1]).datasets[0]
    assert (alone.problems[0].id, alone.problems[0].dataset, alone.name) == ("train.jsonl:1", "train", "train")


def test_the_same_source_twice_is_refused(tmp_path):
    path = write(tmp_path / "p.jsonl", {"prompt": "a", "answer": 1})
    with pytest.raises(ValueError, match=f"data.train: '{path}' is given twice"):
        load_datasets([path, f"{tmp_path}/./p.jsonl"], RecordFormat(), encode, 10, "data.train")


def test_ids_may_come_from_a_field(tmp_path):
    form = RecordFormat(id_field="uid")
    rows = [{"prompt": "a", "answer": 1, "uid": "x/1"}, {"prompt": "b", "answer": 1, "uid": 2}]
    read = load_datasets([write(tmp_path / "p.jsonl", *rows)], form, encode, 10)
    assert [p.id for p in read.datasets[0].problems] == ["p.jsonl#x/1", "p.jsonl#2"]
    path = write(tmp_path / "p.jsonl", *rows, {"prompt": "c", "answer": 1, "uid": "2"})
    with pytest.raises(ValueError, match="data.train: p.jsonl:3: the id 'p.jsonl#2' is that of another question"):
        load_datasets([path], form, encode, 10)


def test_a_filter_that_takes_nothing_is_named(tmp_path):
    path = write(tmp_path / "p.jsonl", {"problem": "a", "solution": "\\boxed{1}", "level": "Level 1"})
    with pytest.raises(ValueError, match=f"data.train: no record of '{path}' has 'level' in"):
        load_datasets([f"math={path}"], RecordFormat(), encode, 10)


def test_a_prompt_without_tokens_is_named(tmp_path):
    path = write(tmp_path / "p.jsonl", {"prompt": "?", "answer": "72"})
    with pytest.raises(ValueError, match="data.eval: p.jsonl:1: the prompt has no tokens"):
        load_datasets([path], RecordFormat(), lambda _: [], 10, setting="data.eval")


def test_what_the_encoder_says_is_passed_on_as_it_is(tmp_path):
    """A chat template that fails is no fault of the file."""

    def failing(_: str) -> list[int]:
        raise ValueError("model.path: the chat template cannot be applied")

    with pytest.raises(ValueError, match="^model.path: the chat template"):
        load_datasets([write(tmp_path / "p.jsonl", {"prompt": "?", "answer": 1})], RecordFormat(), failing, 10)


def test_reading_needs_no_model():
    """Neither torch nor transformers, nor `datasets`, which few need, are loaded before they are used."""
    heavy = "('torch', 'transformers', 'datasets')"
    code = f"import sys, treepo.data.datasets; print([m for m in {heavy} if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
