"""Published sets, read as they are."""

import pytest

from tests.real_data import real_file
from treepo.data.datasets import DatasetTask, load_datasets, split_train_eval
from treepo.data.formats import RecordFormat
from treepo.verify.math import MathVerifier


def encode(text: str) -> list[int]:
    return [len(text)]


def read(*sources: str):
    sets = load_datasets(sources, RecordFormat(), encode, 1 << 20)
    assert (sets.num_too_long, sets.num_duplicates) == (0, 0)
    return sets.datasets


@pytest.mark.parametrize(
    ("name", "file", "count", "first_id", "first", "last"),
    [
        ("gsm8k", "gsm8k_train.jsonl", 7473, "gsm8k_train.jsonl:1", "72", "50"),
        ("gsm8k", "gsm8k_test.jsonl", 1319, "gsm8k_test.jsonl:1", "18", "14"),
        (
            "math500",
            "math500.jsonl",
            500,
            "math500.jsonl#test/precalculus/807.json",
            "\\left( 3, \\frac{\\pi}{2} \\right)",
            "106^\\circ",
        ),
        ("aime24", "aime24.jsonl", 30, "aime24.jsonl#60", "204", "902"),
        ("amc23", "amc23.jsonl", 40, "amc23.jsonl#0", "27.0", "8.0"),
    ],
)
def test_published_sets(name, file, count, first_id, first, last):
    (only,) = read(f"{name}={real_file(file)}")
    assert (only.name, len(only.problems)) == (name, count)
    assert (only.problems[0].id, only.problems[0].ground_truth) == (first_id, first)
    assert only.problems[-1].ground_truth == last
    assert {problem.dataset for problem in only.problems} == {name}
    assert len({problem.id for problem in only.problems}) == count


def test_gsm8k_answers_are_numbers():
    (gsm8k,) = read(f"gsm8k={real_file('gsm8k_train.jsonl')}")
    assert all(p.ground_truth.replace(",", "").lstrip("-").replace(".", "").isdigit() for p in gsm8k.problems)


@pytest.mark.parametrize(("name", "digits"), [("aime24", 30), ("amc23", 40)])
def test_a_plain_integer_is_right_where_the_file_writes_27_0_or_025(name, digits):
    (only,) = read(f"{name}={real_file(f'{name}.jsonl')}")
    answers = [problem.ground_truth for problem in only.problems]
    plain = [str(int(float(answer))) for answer in answers]
    assert len(answers) == digits
    assert sum(answer != other for answer, other in zip(answers, plain, strict=True)) >= 6
    assert all(MathVerifier()(f"\\boxed{{{p}}}", answer).correct for p, answer in zip(plain, answers, strict=True))
    assert not any(
        MathVerifier()(f"\\boxed{{{int(p) + 1}}}", answer).correct for p, answer in zip(plain, answers, strict=True)
    )


def test_the_boxes_of_math500_solutions_hold_its_answers():
    """Read as MATH is, from the solutions, the same answers come out as those that were published beside them."""
    path = real_file("math500.jsonl")
    (published,) = read(f"math500={path}")
    form = RecordFormat("problem", "solution", answer_in_box=True)
    (boxed,) = load_datasets([str(path)], form, encode, 1 << 20).datasets
    assert [problem.ground_truth for problem in boxed.problems] == [
        problem.ground_truth for problem in published.problems
    ]


def test_gsm8k_is_asked_in_the_order_and_split_of_runs_before():
    """Lines as version 0.1.0 held them out and asked them with seed 3, when a run had one file."""
    task = DatasetTask(*split_train_eval(read(f"gsm8k={real_file('gsm8k_train.jsonl')}")), seed=3)
    assert [len(s.problems) for s in (*task.train, *task.eval)] == [6756, 717]
    expected = {
        0: [7304, 4796, 2432, 4577, 4025, 2560],
        7: [1148, 3479, 6677, 5030, 3513, 206],
        400: [6489, 2593, 3685, 5291, 195, 5177],
    }
    for step, lines in expected.items():
        assert [p.id for p in task.training_problems(step, 32)][:6] == [f"gsm8k_train.jsonl:{n}" for n in lines]
    assert [p.id for p in task.eval_problems(6)] == [f"gsm8k_train.jsonl:{n}" for n in (11, 16, 20, 28, 29, 42)]


def test_a_mixture_of_real_sets():
    train = read(f"gsm8k={real_file('gsm8k_train.jsonl')}", f"math500={real_file('math500.jsonl')}")
    held_out = read(f"aime24={real_file('aime24.jsonl')}", f"amc23={real_file('amc23.jsonl')}")
    task = DatasetTask(*split_train_eval(train, held_out), (3.0, 1.0), seed=1)
    assert [len(s.problems) for s in task.train] == [7473, 500]
    asked = [p.dataset for step in range(8) for p in task.training_problems(step, 32)]
    assert (asked.count("gsm8k"), asked.count("math500")) == (192, 64)
    assert [p.dataset for p in task.eval_problems(4)] == ["aime24", "amc23", "aime24", "amc23"]
    assert len(task.eval_problems(400)) == 70
