"""Scores of reasoning-gym's own scorers, and what they may not do with an answer."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.data.endless import EndlessDataset
from treepo.data.problem import Outcome, Problem
from treepo.data.reasoning_gym import GymSource
from treepo.errors import SettingError
from treepo.verify import MathVerifier, ReasoningGymVerifier, VerifierPool, VerifierPoolSettings
from treepo.verify.probe import check_datasets
from treepo.verify.reasoning_gym import EVALUATED, PARSED, is_formula

RIGHT = ("chain_sum", "word_ladder", "countdown", "simple_integration", "spiral_matrix", "rearc", "tsumego")


@pytest.mark.parametrize(
    "text",
    [
        "24",
        "(1 + 2)*3 - 4/5",
        "x**3/3 + C",
        "-Integral(x**2*cos(x), x) + C",
        "-2*cos(3*x) + log(x)",
        " 2*x ",
        "3.5e2",
        "5 + 2j",
    ],
)
def test_formulas_are_let_through(text):
    assert is_formula(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "open('x', 'w')",
        "eval(chr(49))",
        "exec(chr(49))!",
        "S('x')",
        "sin('1')",
        "x.subs(x, 1)",
        "(1).real",
        "[x for x in (1,)]",
        "(lambda: 1)()",
        "x if x else 1",
        "sin(x=1)",
        "f'{x}'",
        "_",
        "__",
        "x[0]",
        "(x := 1)",
        "2 x",
        "",
        "\0",
        "(" * 10_000,
    ],
)
def test_other_python_is_no_formula(text):
    """sympy would run the first four as they stand."""
    assert not is_formula(text) or text == "_"


@given(st.text(max_size=60))
def test_no_text_with_quotes_attributes_or_brackets_is_a_formula(text):
    assert not (is_formula(text) and set("'\"[]{}:@") & set(text.split("#")[0]))


@pytest.fixture(scope="module")
def gym():
    return pytest.importorskip("reasoning_gym")


@pytest.fixture(scope="module")
def pool(gym):
    with VerifierPool(ReasoningGymVerifier(), VerifierPoolSettings(num_workers=1)) as opened:
        yield opened


def problems(spec: str, count: int) -> list[Problem]:
    source = GymSource.of(f"reasoning_gym:{spec}")
    return EndlessDataset(spec, source, 1, lambda text: [1], 10, 10**6).problems(range(count))


def judge(pool: VerifierPool, asked: list[Problem], answers: list[str]) -> list:
    pairs = [(f"So <answer>{a}</answer>", p.ground_truth) for p, a in zip(asked, answers, strict=True)]
    return pool.verify(pairs, [p.columns for p in asked])


@pytest.mark.parametrize("name", RIGHT)
def test_known_answers_are_right_and_others_as_the_library_says(pool, gym, name):
    """1 for the dataset's own answer; for others, such as a part of it, the score of the library itself."""
    asked = problems(name, 3)
    assert [v.correct for v in judge(pool, asked, [p.ground_truth for p in asked])] == [1.0] * 3
    # What is no formula is refused, where the library would run it.
    others = [] if name in PARSED else ["junk", "0", f"{asked[0].ground_truth} or so"]
    for answer in (*others, asked[1].ground_truth):
        (verdict,) = judge(pool, asked[:1], [answer])
        columns = asked[0].columns
        dataset = gym.create_dataset(name, seed=columns["seed"], size=500)
        assert verdict.correct == dataset.score_answer(answer, dataset[columns["index"]]) < 1


def test_partial_scores_come_through(pool):
    """A sum with words around it: the share of the text that is the answer."""
    (problem,) = problems("chain_sum", 1)
    (verdict,) = judge(pool, [problem], [f"it is {problem.ground_truth}"])
    assert verdict.outcome is Outcome.GRADED
    assert verdict.correct == len(problem.ground_truth) / len(f"it is {problem.ground_truth}")


def test_answers_are_found_where_the_library_finds_them(pool, gym):
    (problem,) = problems("chain_sum", 1)
    texts = [
        "<answer> 1 </answer> <answer>\n22\n</answer>",
        "22",
        "<answer>22",
        "<answer></answer>",
        "a<answer>-2</answer>b",
    ]
    for text, verdict in zip(texts, pool.verify([(t, "") for t in texts], [problem.columns] * len(texts)), strict=True):
        assert verdict.extracted_answer == (gym.utils.extract_answer(text) or None)
        assert (verdict.outcome is Outcome.NO_ANSWER) == (verdict.extracted_answer is None)
    boxed = ReasoningGymVerifier(extract_from=("tag", "box", "last_number"))
    assert [boxed.extract(t) for t in (r"<answer>3</answer> \boxed{4}", r"is \boxed{4}", "is 5")] == ["3", "4", "5"]


def test_a_scorer_that_raises_leaves_the_answer_unparsed(pool):
    """prime_factorization takes int() of whatever it is given."""
    (verdict,) = judge(pool, problems("prime_factorization", 1), ["two x three"])
    assert (verdict.correct, verdict.outcome) == (0.0, Outcome.UNPARSED)
    assert not pool.crashes


@pytest.mark.parametrize("name", ["spiral_matrix", "binary_matrix", "string_insertion", "n_queens", *PARSED])
def test_answers_are_not_run(pool, name, tmp_path, monkeypatch):
    """The library passes them to eval and to sympy's parse_expr, which would write the file."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    path = tmp_path / "written"
    for answer in (f"[open({str(path)!r}, 'w')]", f"open({str(path)!r}, 'w')", f"open({str(path)!r}, 'w')!"):
        (verdict,) = judge(pool, problems(name, 1), [answer])
        assert verdict.correct < 0.1
    assert not path.exists()


def test_lists_are_still_read(pool):
    """The library gives a tenth to the right numbers as a Python list."""
    (problem,) = problems("spiral_matrix", 1)
    (verdict,) = judge(pool, [problem], [str([int(n) for n in problem.ground_truth.split()])])
    assert verdict.correct == 0.1


def test_no_other_scorer_runs_answers(gym):
    """In the library's source, every eval and parse_expr of something called answer is in a place that is guarded."""
    folder = Path(gym.__file__).parent
    found = {"eval(answer": set(), "parse_expr(answer": set()}
    for path in folder.rglob("*.py"):
        for call, modules in found.items():
            if call in path.read_text():
                modules.add(".".join(path.relative_to(folder).with_suffix("").parts))
    assert found["eval(answer"] == set(EVALUATED)
    assert {module.rpartition(".")[2] for module in found["parse_expr(answer"]} == set(PARSED)


def test_a_dataset_without_known_answers_is_judged_all_the_same(pool, caplog):
    """graph_color accepts any colouring and names none."""
    asked = problems("graph_color", 2)
    assert {p.ground_truth for p in asked} == {""}
    check_datasets(pool, [as_dataset(asked)], [])
    with VerifierPool(MathVerifier()) as other, pytest.raises(SettingError, match="has no known answers"):
        check_datasets(other, [as_dataset(asked)], [])


def as_dataset(asked: list[Problem]):
    from treepo.data.datasets import Dataset

    return Dataset("graph_color", tuple(asked))
