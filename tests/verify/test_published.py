"""A part of what benchmarks/verifying.py measures: published answers and hostile ones, through workers."""

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.verify.hostile import hostile_answers
from tests.verify.published import gsm8k_solutions, known_answers, math500_solutions, shuffled, spelling_rows
from treepo.data.problem import Outcome
from treepo.verify.math import MathVerifier
from treepo.verify.pool import VerifierPool, VerifierPoolSettings
from treepo.verify.process import pack_message, take_message
from treepo.verify.task import check_verifier


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(MathVerifier(), VerifierPoolSettings(num_workers=1, time_limit_s=20)) as shared:
        yield shared


def test_reference_solutions_are_right(pool):
    pairs = gsm8k_solutions("gsm8k_test.jsonl")[:400] + math500_solutions()[::8]
    assert [pair for pair, said in zip(pairs, pool.verify(pairs), strict=True) if said.correct < 1] == []


def test_with_shuffled_answers_only_equal_ones_are(pool):
    pairs = gsm8k_solutions("gsm8k_test.jsonl")[:400] + math500_solutions()[::12]
    mixed = shuffled(pairs, 0)
    right = [verdict.correct == 1 for verdict in pool.verify(mixed)]
    assert right == [known == answer for (_, known), (_, answer) in zip(pairs, mixed, strict=True)]


@pytest.mark.parametrize("name", ["GSM8K", "MATH-500"])
def test_other_spellings_are_right_and_other_answers_wrong(name):
    """99 of 100 respelled answers at least, and no answer with another number, sign, exponent or letter."""
    rows, verify = spelling_rows(name, known_answers()[name][::2]), MathVerifier()
    otherwise = [row for row in rows if (verify(row.response, row.answer).correct == 1) != row.correct]
    assert [row for row in otherwise if not row.correct] == []
    assert len(otherwise) <= 0.01 * len(rows), otherwise


def test_equal_answers_to_a_problem_are_one_vote(pool):
    """Its reference solution and its answer as it is known."""
    pairs = math500_solutions()[::10]
    verdicts = pool.verify(
        [given for pair in pairs for given in (pair, (MathVerifier().example_response(pair[1]), "0"))]
    )
    votes = [verdict.extracted_answer for verdict in verdicts]
    assert sum(first == second for first, second in zip(votes[::2], votes[1::2], strict=True)) >= 0.95 * len(pairs)


def test_ground_truths_are_recognised(pool, caplog):
    check_verifier(pool, [ground_truth for _, ground_truth in math500_solutions()[:20]], "math500")
    assert caplog.messages == []


def test_hostile_answers_are_wrong_and_the_next_is_judged(pool):
    quick = {"unbalanced", "characters", "code", "other digits", "boxes", "digits", "hedge", "infinity"}
    drawn = [(response, known) for kind, response, known in hostile_answers(100, seed=1) if kind in quick]
    verdicts = pool.verify([asked for pair in drawn for asked in (pair, ("\\boxed{72}", "72"))])
    assert {verdict.correct for verdict in verdicts[::2]} == {0.0}
    assert {(verdict.correct, verdict.outcome) for verdict in verdicts[1::2]} == {(1.0, Outcome.GRADED)}


def test_hostile_answers_depend_on_the_seed_alone():
    first, again, other = (list(hostile_answers(40, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_importing_the_package_is_light():
    code = "import sys, treepo.verify\nprint(sorted({'torch', 'transformers', 'sympy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=()))), st.lists(st.integers(0, 300)))
def test_messages_arrive_whole_however_they_are_cut(texts, cuts):
    """NULs and half surrogate pairs included."""
    stream = b"".join(pack_message(text) for text in texts)
    received, arrived = bytearray(), []
    for start, end in pairwise([0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]):
        received += stream[start:end]
        while (message := take_message(received)) is not None:
            arrived.append(message)
    assert arrived == json.loads(json.dumps(texts))
