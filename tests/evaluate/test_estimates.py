"""What the answers to one problem say, against enumeration."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from tests.evaluate.exact import maj_exactly, pass_exactly
from treepo.evaluate.estimates import avg_at_k, maj_at_k, pass_at_k

NAMES = ["a", "b", "c", None]

answers = st.lists(st.tuples(st.booleans(), st.sampled_from(NAMES)), min_size=1, max_size=20)
"""Right or wrong and the name of the answer, which need not agree."""


def split(pairs):
    pairs = list(pairs)
    return np.array([float(right) for right, _ in pairs]), [name for _, name in pairs]


def maj(correct, given, k, num_draws=1000, seed=0):
    return maj_at_k(correct, given, k, np.random.default_rng(seed), num_draws)


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_mean_over_all_subsets(n):
    for c, k in product(range(n + 1), range(1, n + 1)):
        correct = np.array([1.0] * c + [0.0] * (n - c))
        exact = pass_exactly(correct, k)
        assert exact == 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
        assert pass_at_k(correct, k) == float(exact)


def test_the_best_of_k_when_answers_are_partly_right():
    correct = np.array([0.25, 0.0, 1.0, 0.5, 0.25, 0.0])
    for k in range(1, 7):
        assert pass_at_k(correct, k) == pytest.approx(float(pass_exactly(correct, k)), abs=1e-15)


def test_pass_at_k_of_the_published_example_and_of_many_answers():
    """Chen et al. compute 1 - prod(1 - k / i for i in n - c + 1 .. n); a binomial of 2000 overflows a float."""
    for n, c, k in [(200, 5, 100), (2000, 3, 1000), (2000, 1, 1)]:
        correct = np.zeros(n)
        correct[:c] = 1
        stable = 1 - np.prod(1 - k / np.arange(n - c + 1, n + 1))
        assert pass_at_k(correct, k) == pytest.approx(stable, rel=1e-12)
    assert pass_at_k(np.array([0.0] * 1999 + [1.0]), 1) == 1 / 2000


@settings(deadline=None)
@drawn(answers)
def test_pass_at_k_grows_with_k_and_with_right_answers(pairs):
    correct, _ = split(pairs)
    passed = [pass_at_k(correct, k) for k in range(1, len(correct) + 1)]
    assert passed == sorted(passed) and passed[0] == avg_at_k(correct) and passed[-1] == correct.max()
    better = correct.copy()
    better[np.argmin(better)] = 1
    assert all(pass_at_k(better, k + 1) >= p for k, p in enumerate(passed))


@pytest.mark.parametrize(
    ("correct", "given"),
    [
        ([1, 0, 0, 1], ["x", "y", "y", "x"]),
        ([1, 0, 0, 0], ["x", "y", "z", None]),
        ([1, 1, 0, 0], ["x", "x", None, None]),
        ([1, 0.5, 0, 0], ["x", "x", "y", None]),
        ([0, 0, 1, 0], ["x", "x", "y", "z"]),
        ([1, 0, 0], [None, "y", None]),
    ],
)
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_maj_at_k_is_the_mean_over_all_tuples(correct, given, k):
    """Within 4 standard errors of 40,000 draws, whose worth lies within 0 and 1."""
    found = maj(np.array(correct, float), given, k, num_draws=40_000)
    assert found == pytest.approx(float(maj_exactly(correct, given, k)), abs=4 * 0.5 / math.sqrt(40_000))


@settings(max_examples=50, deadline=None)
@drawn(answers, st.integers(1, 20), st.permutations(range(20)), st.permutations(["a", "b", "c"]))
def test_maj_at_k_depends_on_neither_order_nor_names(pairs, k, order, names):
    correct, given = split(pairs)
    order = [i for i in order if i < len(pairs)]
    renamed = [dict(zip("abc", names, strict=True)).get(g) for g in given]
    found = maj(correct, given, k)
    assert 0 <= found <= 1
    assert found == maj(correct[order], [renamed[i] for i in order], k)


@settings(max_examples=50, deadline=None)
@drawn(answers)
def test_a_single_vote_is_a_mean_in_which_missing_answers_are_wrong(pairs):
    correct, given = split(pairs)
    counted = avg_at_k(correct * np.array([g is not None for g in given]))
    assert float(maj_exactly(correct, given, 1)) == pytest.approx(counted)
    assert maj(correct, given, 1, num_draws=20_000) == pytest.approx(counted, abs=4 * 0.5 / math.sqrt(20_000))


@pytest.mark.parametrize("k", [1, 3, 16, 64])
def test_votes_without_a_choice(k):
    assert maj(np.ones(16), ["7"] * 16, k) == 1
    assert maj(np.zeros(16), ["8"] * 16, k) == 0
    assert maj(np.zeros(16), [None] * 16, k) == 0
    assert maj(np.ones(16), [None] * 16, k) == 0, "nobody voted, whatever the verifier says"


def test_a_missing_answer_is_no_vote():
    """As a vote of its own it would win here: 15 of 16 answers are missing, the other one is right."""
    correct, given = np.array([1.0] + [0.0] * 15), ["7"] + [None] * 15
    assert maj(correct, given, 64, num_draws=20_000) == pytest.approx(1 - (15 / 16) ** 64, abs=0.005)


@settings(max_examples=50, deadline=None)
@drawn(st.lists(st.tuples(st.booleans(), st.sampled_from(NAMES)), min_size=1, max_size=5), st.integers(1, 4))
def test_a_vote_is_never_worth_less_without_the_missing_answers(pairs, k):
    """They are wrong, so that a class of them takes from what the others are worth wherever it wins or ties."""
    correct, given = split((right and name is not None, name) for right, name in pairs)
    as_votes = [name or "missing" for name in given]
    assert maj_exactly(correct, given, k) >= maj_exactly(correct, as_votes, k)


def test_a_tie_is_shared_evenly_without_chance():
    """Two votes for one of two answers each: both the same, or a tie that is worth one half."""
    worth = {maj(np.array([1.0, 0.0]), ["x", "y"], 2, num_draws=1, seed=seed) for seed in range(50)}
    assert worth == {0.0, 0.5, 1.0}


def test_many_votes_find_the_majority():
    correct, given = np.array([1.0] * 6 + [0.0] * 10), ["7"] * 6 + ["1", "2", "3", "4", "5"] * 2
    assert maj(correct, given, 500) == 1.0 > avg_at_k(correct)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: avg_at_k(np.array([])), "correct: there are no answers"),
        (lambda: pass_at_k(np.ones(3), 4), "k: pass@4 needs 1 <= k <= n, there are n = 3"),
        (lambda: pass_at_k(np.ones(3), 0), "k: pass@0 needs"),
        (lambda: pass_at_k(np.array([0.0, np.nan]), 1), "correct: must be finite, got nan"),
        (lambda: maj(np.ones(3), ["1"] * 3, 0), "k: maj@0 needs k >= 1"),
        (lambda: maj(np.ones(3), ["1"] * 2, 1), "votes: 2 votes for 3 values"),
    ],
)
def test_what_cannot_be_estimated_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
