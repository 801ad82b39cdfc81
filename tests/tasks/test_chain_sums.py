from __future__ import annotations

import random
import re
from itertools import accumulate, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.data.problem import Problem, Task
from treepo.tasks.base import is_eval_prompt
from treepo.tasks.chain_sums import (
    Chain,
    ChainSums,
    draw_chain,
    draw_corpus,
    make_chain_tokenizer,
    work_step,
    worked_answer,
)

TOKENIZER = make_chain_tokenizer()
CANCELLING = Chain(62, (-7, +7, +2, +3))
chains = st.integers(min_value=0).map(lambda seed: draw_chain(random.Random(seed)))


def share_right(answers: list[tuple[str, str | None]]) -> float:
    """The share of (prompt, answer) pairs whose box holds the prompt's value."""
    right = [answer is not None and answer.endswith(boxed(str(value_of(prompt)))) for prompt, answer in answers]
    return sum(right) / len(right)


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def value_of(prompt: str) -> int:
    """The true value, read from the prompt in another way than `Chain.value` takes."""
    return eval(re.sub("[a-h:]", "", prompt))


def in_range(result: int) -> bool:
    return 10 <= result <= 89


def drawn(count: int) -> list[Chain]:
    rng = random.Random("test")
    return [draw_chain(rng) for _ in range(count)]


def test_the_longest_prompt_has_as_many_tokens_as_said() -> None:
    """The room that the engine must have for prompts depends on it."""
    lengths = [len(p.prompt_ids) for p in ChainSums(TOKENIZER, 0).training_problems(0, 300)]
    assert max(lengths) == ChainSums.max_prompt_tokens


# --- the examples of the specification, token for token


def test_careful_example() -> None:
    answer = worked_answer(CANCELLING, [True] * 4)
    assert CANCELLING.prompt == "62a-7b+7c+2d+3:"
    assert answer == r"a62-2=60,60-5=55;b55+5=60,60+2=62;c62+2=64;d64+3=67;\boxed{67}"
    expected = "a 6 2 - 2 = 6 0 , 6 0 - 5 = 5 5 ; b 5 5 + 5 = 6 0 , 6 0 + 2 = 6 2 ; "
    expected += r"c 6 2 + 2 = 6 4 ; d 6 4 + 3 = 6 7 ; \boxed{ 6 7 }"
    assert TOKENIZER.convert_ids_to_tokens(TOKENIZER.encode(answer)) == expected.split()


def test_careless_example() -> None:
    answer = worked_answer(CANCELLING, [False] * 4)
    assert answer == r"a62-7=65;b65+7=62;c62+2=64;d64+3=67;\boxed{67}"
    expected = "a 6 2 - 7 = 6 5 ; b 6 5 + 7 = 6 2 ; c 6 2 + 2 = 6 4 ; d 6 4 + 3 = 6 7 ; "
    expected += r"\boxed{ 6 7 }"
    assert TOKENIZER.convert_ids_to_tokens(TOKENIZER.encode(answer)) == expected.split()


def test_second_example() -> None:
    chain = Chain(65, (-3, +7, -3, -8))
    assert chain.prompt == "65a-3b+7c-3d-8:"
    expected = r"a65-3=62;b62+7=69;c69-3=66;d66-6=60,60-2=58;\boxed{58}"
    assert worked_answer(chain, [True] * 4) == expected
    assert worked_answer(chain, [False, False, False, True]) == expected, "plain steps ignore it"


# --- single steps


@pytest.mark.parametrize(
    ("value", "step", "careful", "careless"),
    [
        (62, +7, [(7, 69)], [(7, 69)]),
        (69, -9, [(-9, 60)], [(-9, 60)]),
        (55, +5, [(5, 60)], [(5, 50)]),
        (60, -7, [(-7, 53)], [(-7, 67)]),
        (55, +7, [(5, 60), (2, 62)], [(7, 52)]),
        (62, -7, [(-2, 60), (-5, 55)], [(-7, 65)]),
        (10, -2, [(-2, 8)], [(-2, 12)]),
    ],
)
def test_work_step(value: int, step: int, careful: list[tuple[int, int]], careless: list[tuple[int, int]]) -> None:
    assert work_step(value, step, careful=True) == careful
    assert work_step(value, step, careful=False) == careless


# --- whole problems and answers


@given(chains)
def test_a_chain_is_as_specified(chain: Chain) -> None:
    assert 3 <= len(chain.steps) <= 6
    assert all(2 <= abs(step) <= 9 for step in chain.steps)
    assert all(map(in_range, accumulate((chain.start, *chain.steps))))
    assert chain.value == value_of(chain.prompt)
    labelled = r"\d\d(a[+-]\d)(b[+-]\d)(c[+-]\d)(d[+-]\d(e[+-]\d(f[+-]\d)?)?)?:"
    assert re.fullmatch(labelled, chain.prompt)


@given(chains)
def test_a_careful_answer_is_right_in_every_equation(chain: Chain) -> None:
    answer = worked_answer(chain, [True] * len(chain.steps))
    assert answer is not None
    for left, right in re.findall(r"(\d+[+-]\d)=(\d+)", answer):
        assert eval(left) == int(right)
    task = ChainSums(TOKENIZER, seed=0)
    assert correct(task, problem_of(chain), answer) == 1.0


@given(chains, st.lists(st.booleans(), min_size=6, max_size=6))
def test_an_answer_stays_in_range_and_is_boxed_as_worked(chain: Chain, ways: list[bool]) -> None:
    answer = worked_answer(chain, ways[: len(chain.steps)])
    if answer is None:
        assert len(set(ways[: len(chain.steps)])) == 2, "one way alone cannot leave the range"
        return
    results = [int(result) for result in re.findall(r"=(\d+)", answer)]
    assert all(map(in_range, results))
    assert answer.endswith(";" + boxed(str(results[-1])))


def test_an_answer_that_leaves_the_range_is_refused() -> None:
    chain = Chain(15, (+5, -9, +2))
    assert worked_answer(chain, [False, False, True]) == r"a15+5=10;b10-9=19;c19+1=20,20+1=21;\boxed{21}"
    assert worked_answer(chain, [False, True, True]) is None, "10-9 is below 10"


def test_a_way_is_needed_for_each_step() -> None:
    with pytest.raises(ValueError, match="careful: 3 values for 4 steps"):
        worked_answer(CANCELLING, [True] * 3)


def test_always_careless_is_right_about_one_time_in_eleven() -> None:
    answers = [(c.prompt, worked_answer(c, [False] * len(c.steps))) for c in drawn(6000)]
    assert 0.075 < share_right(answers) < 0.105


def test_the_corpus_is_right_about_one_time_in_four() -> None:
    pairs = list(islice(draw_corpus(seed=0, careful_share=0.45), 6000))
    assert 0.24 < share_right([(prompt, answer) for prompt, answer in pairs]) < 0.28
    lengths = [len(TOKENIZER.encode(answer)) for _, answer in pairs]
    assert 51 < sum(lengths) / len(lengths) < 54
    assert max(lengths) < 128


def test_the_corpus_is_never_held_out_and_depends_on_its_seed() -> None:
    first, again, other = (list(islice(draw_corpus(seed, 0.45), 300)) for seed in (1, 1, 2))
    assert not any(is_eval_prompt(prompt) for prompt, _ in first)
    assert first == again != other


def test_the_corpus_refuses_a_share_above_one() -> None:
    with pytest.raises(ValueError, match=r"careful_share must be within 0 and 1, not 1\.5"):
        next(draw_corpus(0, 1.5))


# --- rewards


def correct(task: ChainSums, problem: Problem, response: str) -> float:
    return task.verify([(problem, response)])[0].correct


def problem_of(chain: Chain) -> Problem:
    return Problem(chain.prompt, chain.prompt, (1, 2), str(chain.value))


@given(chains, st.integers(0, 999))
def test_another_value_is_wrong(chain: Chain, value: int) -> None:
    task = ChainSums(TOKENIZER, seed=0)
    assert correct(task, problem_of(chain), boxed(str(value))) == float(value == chain.value)


@pytest.mark.parametrize(
    "response",
    [
        "",
        "67",
        "67}",
        r"\boxed{67",
        r"\boxed{67};",
        r"\boxed{67} ",
        r"\boxed{67}\boxed{68}",
        r"\boxed{067}",
        r"\boxed{+67}",
        r"\boxed{6}7}",
    ],
)
def test_only_the_box_at_the_very_end_counts(response: str) -> None:
    task = ChainSums(TOKENIZER, seed=0)
    assert correct(task, problem_of(CANCELLING), response) == 0.0
    assert correct(task, problem_of(CANCELLING), response + r"\boxed{67}") == 1.0


# --- the task


def test_training_problems_are_fresh_reproducible_and_distinct() -> None:
    task: Task = ChainSums(TOKENIZER, seed=3)
    problems = task.training_problems(step=5, count=200)
    assert problems == ChainSums(TOKENIZER, seed=3).training_problems(step=5, count=200)
    assert len({problem.id for problem in problems}) == 200
    others = [
        task.training_problems(step=6, count=200),
        ChainSums(TOKENIZER, seed=4).training_problems(step=5, count=200),
    ]
    for other in others:
        assert len({p.id for p in problems} & {p.id for p in other}) < 20


def test_held_out_problems_are_distinct_and_never_trained_on() -> None:
    task = ChainSums(TOKENIZER, seed=0)
    held_out = [problem.prompt for problem in task.eval_problems(1000)]
    assert len(set(held_out)) == 1000
    assert all(map(is_eval_prompt, held_out))
    training = task.training_problems(step=0, count=1000)
    assert not any(is_eval_prompt(problem.prompt) for problem in training)


def test_held_out_problems_are_the_same_for_all_seeds_and_counts() -> None:
    few = ChainSums(TOKENIZER, seed=0).eval_problems(10)
    assert few == ChainSums(TOKENIZER, seed=1).eval_problems(20)[:10]


def test_one_prompt_in_ten_is_eval_prompt() -> None:
    assert 0.085 < sum(is_eval_prompt(chain.prompt) for chain in drawn(5000)) / 5000 < 0.115
    # The split must never move: whoever compares two versions needs the same one.
    held_out = [chain.prompt for chain in drawn(40) if is_eval_prompt(chain.prompt)]
    assert held_out == [
        "18a+5b-3c+5d-8e+7f-2:",
        "48a+4b+2c+3d-4e-3:",
        "75a-5b-9c+8:",
        "31a-9b+2c-5:",
        "72a-2b-5c-2:",
        "60a-5b+3c+6:",
    ]


def test_a_problem_holds_what_the_model_is_conditioned_on() -> None:
    (problem,) = ChainSums(TOKENIZER, seed=0).training_problems(step=0, count=1)
    assert problem.id == problem.prompt
    assert problem.prompt_ids[0] == TOKENIZER.bos_token_id
    assert TOKENIZER.decode(list(problem.prompt_ids[1:])) == problem.prompt
    assert int(problem.ground_truth) == value_of(problem.prompt)


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="count must not be negative, not -1"):
        ChainSums(TOKENIZER, seed=0).eval_problems(-1)


# --- the tokenizer


def test_the_tokenizer_has_29_tokens() -> None:
    assert len(TOKENIZER) == len(ChainSums.tokens) == len(set(ChainSums.tokens)) == 29
    assert TOKENIZER.convert_ids_to_tokens(list(range(29))) == list(ChainSums.tokens)
    special = (TOKENIZER.pad_token_id, TOKENIZER.bos_token_id, TOKENIZER.eos_token_id)
    assert special == (0, 1, 2)


@given(st.lists(st.sampled_from(ChainSums.tokens[3:])))
def test_text_round_trips_token_for_token(tokens: list[str]) -> None:
    text = "".join(tokens)
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.convert_ids_to_tokens(ids) == tokens
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.decode([1, *ids, 2, 0, 0], skip_special_tokens=True) == text
