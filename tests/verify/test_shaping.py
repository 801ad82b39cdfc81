r"""Parts of a reward: formulas by hand and against other computations, and what each can never do."""

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.data.problem import Problem
from treepo.verify.rewards import Answers, ShapedReward
from treepo.verify.shaping import length_effect, length_reward, overlong_penalty, total

BOX = r"so \boxed{1}"
PROBLEM = Problem("p", "1?", (1,), "1")


def answers_of(correct, lengths, texts=None, finished=None, limit=100) -> Answers:
    """Answers, well formed unless said otherwise."""
    texts = texts or [BOX] * len(lengths)
    finished = [True] * len(lengths) if finished is None else finished
    return Answers(np.array(correct, float), tuple(texts), np.array(lengths), np.array(finished), limit, PROBLEM)


@st.composite
def groups(draw, min_size=1) -> Answers:
    """Up to twelve answers of 1..100 tokens, right or wrong, well formed or not, finished or not."""
    size = draw(st.integers(min_size, 12))

    def many(values):
        return draw(st.lists(values, min_size=size, max_size=size))

    texts = many(st.sampled_from([BOX, "", r"\boxed{", r"\boxed{1}\boxed{1}"]))
    return answers_of(
        many(st.sampled_from([0.0, 1.0])), many(st.integers(1, 100)), texts, many(st.booleans()), limit=100
    )


def permuted(answers: Answers, order) -> Answers:
    texts = tuple(answers.texts[i] for i in order)
    return Answers(
        answers.correct[order],
        texts,
        answers.lengths[order],
        answers.finished[order],
        answers.max_response_tokens,
        answers.problem,
    )


EVERYTHING = ShapedReward(correct=2.0, overlong=0.5, overlong_buffer=40, format=0.1, length=0.3)
NEUTRAL = ShapedReward(correct=2.0, format=0.1, length_neutral=True)


def test_the_papers_overlong_penalty():
    """512 of 7168 tokens: nothing up to 6656, half of it at 6912, all of it at the limit."""
    lengths = np.array([1, 6655, 6656, 6657, 6912, 7167, 7168])
    expected = [0.0, 0.0, 0.0, -1 / 512, -0.5, -511 / 512, -1.0]
    assert overlong_penalty(lengths, max_response_tokens=7168, buffer=512).tolist() == expected


@given(st.integers(1, 300), st.data())
def test_the_overlong_penalty_is_bounded_and_falls_with_length(limit, data):
    """Also where the buffer is one token or all of the response."""
    buffer = data.draw(st.integers(1, limit))
    penalties = overlong_penalty(np.arange(1, limit + 1), limit, buffer)
    assert (np.diff(penalties) <= 0).all()
    assert penalties[-1] == -1.0 and penalties.max() <= 0
    assert (penalties < 0).sum() == buffer


def test_the_length_reward_by_hand():
    """Of 10..30 tokens 0.5, 0.25, 0, -0.5 where right; wrong answers get no reward for being short."""
    lengths = np.array([10, 15, 20, 30, 10, 15, 20, 30])
    correct = np.array([1.0] * 4 + [0.0] * 4)
    assert length_reward(lengths, correct).tolist() == [0.5, 0.25, 0.0, -0.5, 0.0, 0.0, 0.0, -0.5]


@pytest.mark.parametrize("lengths", [[7], [7, 7, 7]])
def test_without_a_difference_in_length_there_is_nothing_to_say_about_it(lengths):
    correct = np.array([1.0, 0.0, 1.0][: len(lengths)])
    assert length_reward(np.array(lengths), correct).tolist() == [0.0] * len(lengths)
    assert length_effect(correct, np.array(lengths)).tolist() == [0.0] * len(lengths)


@given(groups())
def test_the_length_reward_is_bounded_and_falls_with_length(answers):
    """Among right answers strictly, among wrong ones never above 0; a right one never gets less than a wrong one."""
    values = length_reward(answers.lengths, answers.correct)
    assert (np.abs(values) <= 0.5).all()
    assert (values[answers.correct == 0] <= 0).all()
    for i, j in np.argwhere(np.less.outer(answers.lengths, answers.lengths)):
        if answers.correct[i] == answers.correct[j] == 1:
            assert values[i] > values[j]
        if answers.correct[i] >= answers.correct[j]:
            assert values[i] >= values[j]


def test_the_effect_of_length_by_hand():
    """Lengths 1, 2, 3 with rewards 0, 0, 1: slope 1/2, so that -1/2, 0, 1/2 are taken out."""
    effect = length_effect(np.array([0.0, 0.0, 1.0]), np.array([1, 2, 3]))
    np.testing.assert_allclose(effect, [-0.5, 0.0, 0.5], rtol=0, atol=1e-15)


@given(groups(min_size=2))
def test_a_length_neutral_reward_is_uncorrelated_with_length(answers):
    """It keeps its mean, and is what the standard library's regression leaves over."""
    raw = 2.0 * answers.correct + NEUTRAL(answers)["format"]
    rewards = total(NEUTRAL(answers))
    longer = answers.lengths - answers.lengths.mean()
    if longer.any():
        assert abs(longer @ rewards) <= 1e-9 * len(longer) * 100
        line = statistics.linear_regression(answers.lengths.tolist(), raw.tolist())
        np.testing.assert_allclose(rewards, raw - line.slope * longer, rtol=0, atol=1e-9)
    else:
        np.testing.assert_array_equal(rewards, raw)
    assert rewards.mean() == pytest.approx(raw.mean(), abs=1e-9)


def test_what_length_explains_wholly_leaves_no_signal():
    """Rounding would leave differences of 1e-17 between rewards that agree, which dividing by a std would blow up."""
    explained = [([3, 10], [1, 0]), ([1, 4], [0, 1]), ([7, 7, 9], [1, 1, 0]), ([3, 3, 10, 10], [0, 0, 1, 1])]
    for lengths, correct in explained:
        rewards = total(ShapedReward(correct=0.1, length_neutral=True)(answers_of(correct, lengths)))
        assert rewards.min() == rewards.max() == pytest.approx(0.1 * np.mean(correct))
    agreed = answers_of([1, 1, 1], [3, 5, 9])
    assert total(ShapedReward(correct=0.1, length_neutral=True)(agreed)).tolist() == [0.1] * 3


@pytest.mark.parametrize(
    ("text", "finished", "expected"),
    [
        (r"\boxed{42}", True, 1.0),
        (r"so \boxed{\frac{1}{2}}.", True, 1.0),
        (r"\boxed{42}", False, 0.0),  # cut off at a limit, or repeating itself
        ("42", True, 0.0),
        ("", True, 0.0),
        (r"\boxed{42", True, 0.0),
        (r"\boxed{4\}", True, 0.0),  # what looks like its end is escaped
        (r"\boxed{\frac{1}{2}", True, 0.0),
        (r"\\boxed{42}", True, 0.0),  # a line break and the word "boxed"
        (r"\boxed{1} or \boxed{2}", True, 0.0),
        (r"\boxed{1} or \boxed{2", True, 0.0),
        (r"\boxed{\boxed{1}}", True, 0.0),
        (r"\boxed{}", True, 0.0),
        ("\\boxed{ \n}", True, 0.0),
        (r"\boxed{42</s>", True, 0.0),
    ],
)
def test_only_what_is_complete_is_well_formed(text, finished, expected):
    parts = ShapedReward(format=0.25)(answers_of([1], [9], [text], [finished]))
    assert parts["format"].tolist() == [0.25 * expected]


def test_by_default_the_tasks_own_reward_is_all():
    parts = ShapedReward()(answers_of([0, 1, 0.3], [1, 100, 50], finished=[False, True, True]))
    assert list(parts) == ["correct"]
    assert parts["correct"].tolist() == total(parts).tolist() == [0.0, 1.0, 0.3]


def test_parts_with_their_weights_by_hand():
    """A right answer of 20 tokens, a wrong one of 60 and a right one that filled the limit of 100."""
    answers = answers_of([1, 0, 1], [20, 60, 100], [BOX, "", BOX], [True, True, False])
    reward = ShapedReward(correct=2.0, overlong=3.0, overlong_buffer=50, format=0.5, length=4.0)
    expected = {
        "correct": [2.0, 0.0, 2.0],
        "overlong": [0.0, -0.6, -3.0],
        "format": [0.5, 0.0, 0.0],
        "length": [2.0, 0.0, -2.0],
    }
    parts = reward(answers)
    assert list(parts) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(parts[name], values)
    np.testing.assert_allclose(total(parts), [4.5, -0.6, -3.0])


@given(groups(), st.randoms(use_true_random=False))
def test_the_order_of_answers_does_not_matter(answers, rng):
    order = list(range(len(answers.texts)))
    rng.shuffle(order)
    for reward in (EVERYTHING, NEUTRAL):
        here, there = total(reward(answers)), total(reward(permuted(answers, order)))
        np.testing.assert_allclose(there, here[order], rtol=0, atol=1e-12)


@given(groups())
def test_every_part_is_one_number_per_answer(answers):
    for reward in (ShapedReward(), EVERYTHING, NEUTRAL):
        for values in reward(answers).values():
            assert values.dtype == np.float64 and values.shape == answers.correct.shape and np.isfinite(values).all()


@given(groups())
def test_a_reward_that_says_so_is_never_negative(answers):
    assert total(ShapedReward(correct=0.5, format=0.5)(answers)).min() >= 0
    assert not ShapedReward(correct=0.5, format=0.5).can_be_negative
    assert EVERYTHING.can_be_negative and NEUTRAL.can_be_negative


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"correct": -1.0}, "correct: must not be negative, got -1.0"),
        ({"overlong": -0.5}, "overlong: must not be negative, got -0.5"),
        ({"format": -0.5}, "format: must not be negative, got -0.5"),
        ({"length": -0.5}, "length: must not be negative, got -0.5"),
        ({"overlong_buffer": 0}, "overlong_buffer: must be at least 1, got 0"),
        ({"overlong_buffer": -3}, "overlong_buffer: must be at least 1, got -3"),
        ({"correct": 0.0}, "correct: must be positive where no other component has a weight, got 0.0"),
        ({"length_neutral": True, "length": 0.5}, "length_neutral: takes back .* got \\(0.0, 0.5\\)"),
        ({"length_neutral": True, "overlong": 1.0}, "length_neutral: takes back .* got \\(1.0, 0.0\\)"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ShapedReward(**settings)
