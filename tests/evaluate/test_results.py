"""Figures from kept answers."""

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluate.answers import answers
from tests.evaluate.exact import maj_exactly, pass_exactly
from treepo.evaluate.estimates import EstimateSettings, aggregate
from treepo.evaluate.records import AnswerRecord, Cost, to_table
from treepo.evaluate.results import Result

CHEAP = EstimateSettings(num_votes=200, num_resamples=200)


def judged(problem: int, correct: list[float], given: list[str | None], **fields) -> list[AnswerRecord]:
    """Answers to one problem with what the verifier says."""
    records = answers(problem, len(correct), **fields)
    return [replace(r, correct=c, extracted_answer=g, vote=g) for r, c, g in zip(records, correct, given, strict=True)]


def found(records: list[AnswerRecord], settings: EstimateSettings = CHEAP, cost: Cost | None = None) -> list[Result]:
    costs = {(record.model, record.setting): cost or Cost() for record in records}
    return aggregate(to_table(records), costs, settings)


def many(num_problems: int, n: int, **fields) -> list[AnswerRecord]:
    """Answers of a policy that is right with a chance of its own on each problem."""
    rng = np.random.default_rng(num_problems)
    records = []
    for i in range(num_problems):
        right = rng.random(n) < rng.random()
        given = ["7" if r else str(w) if w < 4 else None for r, w in zip(right, rng.integers(5, size=n), strict=True)]
        records += judged(i, right.astype(float).tolist(), given, **fields)
    return records


def test_figures_are_means_over_problems_of_what_their_answers_say():
    a = judged(1, [1, 0, 0, 0], ["7", "8", "9", None])
    b = judged(2, [1, 1, 0, 0], ["7", "7", "9", None], num_tokens=3, outcome="no answer")
    (result,) = found(a + b, EstimateSettings(pass_ks=(1, 2, 3, 4, 5), num_votes=20_000))
    (part,) = result.datasets
    assert (result.k, part.num_problems, part.num_answers, part.avg.value) == (4, 2, 8, 3 / 8)
    exact = {k: float(pass_exactly([1, 0, 0, 0], k) + pass_exactly([1, 1, 0, 0], k)) / 2 for k in (1, 2, 3, 4)}
    assert {k: estimate.value for k, estimate in part.pass_at.items()} == pytest.approx(exact, abs=1e-15)
    votes = maj_exactly([1, 0, 0, 0], ["7", "8", "9", None], 4) + maj_exactly([1, 1, 0, 0], ["7", "7", "9", None], 4)
    assert part.maj.value == pytest.approx(float(votes / 2), abs=4 * 0.5 / 20_000**0.5)
    assert part.tokens_per_answer == 5 and part.outcomes == {"graded": 0.5, "no answer": 0.5}


def test_overall_is_the_mean_over_all_problems():
    records = many(30, 4, dataset="aime") + [replace(r, dataset="math") for r in many(90, 4)]
    (result,) = found(records)
    assert [part.dataset for part in result.datasets] == ["aime", "math"]
    for figure in ("avg", "maj"):
        aime, math = (getattr(part, figure).value for part in result.datasets)
        assert getattr(result.overall, figure).value == pytest.approx((30 * aime + 90 * math) / 120, abs=1e-12)
    assert result.overall.num_problems == 120
    widths = [part.avg.high - part.avg.low for part in (*result.datasets, result.overall)]
    assert widths[2] < widths[1] < widths[0]


def test_problems_are_drawn_anew_within_their_sets():
    """A set that is all right and one that is all wrong: whichever problems are drawn, half of them are right."""
    right = [r for i in range(20) for r in judged(i, [1.0] * 2, ["7"] * 2, dataset="aime")]
    wrong = [r for i in range(20) for r in judged(i, [0.0] * 2, ["8"] * 2, dataset="math")]
    (result,) = found(right + wrong)
    for estimate in (result.overall.avg, result.overall.maj, *result.overall.pass_at.values()):
        assert (estimate.low, estimate.value, estimate.high) == (0.5, 0.5, 0.5)


def test_a_single_set_is_all_there_is():
    """Its figures were drawn anew as those of all, with other intervals."""
    (result,) = found(many(30, 4, dataset="aime"))
    assert replace(result.overall, dataset="aime") == result.datasets[0]
    assert result.overall.dataset == "overall"


def test_a_set_may_be_called_overall():
    records = many(10, 2, dataset="overall") + many(10, 2, dataset="aime")
    (result,) = found(records)
    assert [s.dataset for s in result.datasets] == ["overall", "aime"] and result.overall.num_problems == 20
    assert found(records[:20])[0].datasets[0] == result.datasets[0]


def test_votes_of_two_sets_are_drawn_apart():
    """Even where their problems bear the same names: errors of the draws cancel over sets rather than add up."""
    aime = judged(1, [1.0, 0.0, 0.0, 0.0], ["7", "8", "9", "10"], dataset="aime")
    (result,) = found(aime + [replace(r, dataset="math") for r in aime])
    first, second = (part.maj.value for part in result.datasets)
    assert first != second and first == pytest.approx(second, abs=0.2)


def test_a_figure_depends_on_its_own_answers_alone():
    """Neither on the order of sets, problems and answers, nor on other settings, models and sets."""
    aime, math = many(12, 4, dataset="aime"), [replace(r, dataset="math") for r in many(7, 4)]
    others = [replace(r, setting="b=8") for r in aime] + [replace(r, model="n") for r in math]
    (alone,) = found(aime + math)
    order = np.random.default_rng(0).permutation(len(aime + math + others))
    shuffled = [(others + math + aime)[i] for i in order]
    again = next(r for r in found(shuffled) if (r.model, r.setting) == ("m", "b=2"))
    assert again.overall == alone.overall
    assert sorted(again.datasets, key=lambda s: s.dataset) == list(alone.datasets)
    (aime_only,) = found(aime)
    assert aime_only.datasets[0] == alone.datasets[0]
    assert found(aime, replace(CHEAP, seed=1))[0].datasets[0].maj != alone.datasets[0].maj


def test_settings_come_in_the_order_of_their_first_answers():
    records = (
        many(2, 1, setting="sequential") + many(2, 1, setting="b=2") + many(2, 1, setting="sequential", dataset="z")
    )
    assert [result.setting for result in found(records)] == ["sequential", "b=2"]


def test_pass_at_k_is_left_out_where_a_problem_has_fewer_answers():
    """A tree may end with fewer leaves than it may have."""
    (result,) = found(judged(1, [1.0] * 4, ["7"] * 4) + judged(2, [0.0] * 3, ["8"] * 3), EstimateSettings((1, 3, 4, 8)))
    assert result.k == 4 and list(result.overall.pass_at) == [1, 3]
    assert result.overall.avg.value == 0.5, "problems weigh alike, however many answers they have"


@pytest.mark.parametrize(
    ("n", "ks"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16]), (33, [1, 2, 4, 8, 16, 32, 33])],
)
def test_pass_at_k_goes_up_to_the_number_of_answers(n, ks):
    """It ended at 16, so that of 32 answers nothing was said, and at 4 of 6."""
    (result,) = found(judged(1, [0.0] * (n - 1) + [1.0], ["8"] * n))
    assert list(result.overall.pass_at) == ks
    assert [e.value for e in result.overall.pass_at.values()] == pytest.approx([k / n for k in ks], abs=1e-15)


def test_one_short_tree_adds_no_column():
    """One of 5 leaves among those of 16: k is 16, and pass@8 and pass@16 are left out; pass@5 would be odd."""
    (result,) = found(judged(1, [1.0] * 16, ["7"] * 16) + judged(2, [0.0] * 5, ["8"] * 5))
    assert result.k == 16 and list(result.overall.pass_at) == [1, 2, 4]


def test_one_greedy_answer_per_problem():
    (result,) = found(many(20, 1, setting="greedy"))
    assert (result.k, list(result.overall.pass_at)) == (1, [1])
    assert result.overall.pass_at[1].value == result.overall.avg.value


def test_nothing_voted_for_is_wrong():
    (result,) = found(judged(1, [0.0] * 4, [None] * 4) + judged(2, [0.0] * 4, [None] * 4))
    assert {e.value for e in (result.overall.avg, result.overall.maj, *result.overall.pass_at.values())} == {0.0}


def test_costs_belong_to_their_setting():
    cost = Cost(tokens_decoded=10, wall_s=4.0)
    (result,) = found(many(3, 2), cost=cost)
    assert result.cost == cost and result.trajectories_per_s == 1.5
    assert found(many(3, 2))[0].trajectories_per_s is None


def test_gains_are_differences_of_the_same_problems():
    """Against the first result, over the problems that both were asked, set by set; none for the first itself."""
    records = many(40, 4, model="a", dataset="x") + many(40, 4, model="a", dataset="y")
    others = [replace(r, model="b") for r in many(30, 4, dataset="x")]
    first, second = found(records + others)
    assert first.gain is None
    alone = found([r for r in records if r.dataset == "x" and r.problem in {o.problem for o in others}] + others)
    assert second.gain == alone[1].gain
    expected = alone[1].overall.avg.value - alone[0].overall.avg.value
    assert second.gain.num_problems == 30 and second.gain.avg.value == pytest.approx(expected, abs=1e-12)
    assert second.gain.maj.value == pytest.approx(alone[1].overall.maj.value - alone[0].overall.maj.value, abs=1e-12)


def test_all_gains_are_over_the_first_row():
    """Not over the row before: the third is as good as the second, and both are better than the first."""
    right = [judged(i, [1.0] * 2, ["7"] * 2, model="b") for i in range(10)]
    better = [r for records in right for r in records]
    first = [replace(r, model="a", correct=0.0, extracted_answer="8", vote="8") for r in better]
    _, second, third = found(first + better + [replace(r, model="c") for r in better])
    assert second.gain.avg.value == third.gain.avg.value == 1.0
    assert second.gain.maj.value == third.gain.maj.value == 1.0


def test_a_gain_is_known_better_than_two_figures():
    """Answers that differ from the first in one problem of ten: the interval of the gain is the narrower one."""
    records = many(200, 4, model="a")
    better = [
        replace(r, model="b", correct=1.0, extracted_answer="7", vote="7")
        if int(r.problem.split(":")[-1]) % 10 == 0
        else replace(r, model="b")
        for r in records
    ]
    _, second = found(records + better)
    gain = second.gain.avg
    assert 0 < gain.low < gain.value < gain.high
    assert gain.high - gain.low < 0.7 * (second.overall.avg.high - second.overall.avg.low)


def test_nothing_in_common_is_no_gain():
    """Other sets, or other problems of the same set, cannot be compared."""
    other = [replace(r, model="b", problem=f"other {r.problem}") for r in many(3, 2)]
    assert [r.gain for r in found(many(3, 2, model="a") + other)] == [None, None]
