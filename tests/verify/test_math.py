"""Mathematical answers in a box: what is right, and what is the same answer."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.data.problem import Outcome, Verdict
from treepo.errors import SettingError
from treepo.verify.expressions.text import MAX_ANSWER_LEN, MAX_DEPTH
from treepo.verify.math import MathVerifier

VERIFIER = MathVerifier()


def extracted(answer: str) -> str:
    """The text that stands for an answer, which must not depend on the ground truth."""
    found = {VERIFIER(f"\\boxed{{{answer}}}", ground_truth).extracted_answer for ground_truth in ("12345", answer)}
    assert len(found) == 1
    return found.pop() or ""


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        (r"so \boxed{72}", "72", True),
        (r"so \boxed{72.0}", "72", True),
        (r"so \boxed{1,234}", "1234", True),
        (r"so \boxed{1234}", "1,234", True),
        (r"so \boxed{1\,234}", "1234", True),
        (r"so \boxed{10{,}000}", "10000", True),
        (r"so \boxed{\$18}", "18", True),
        (r"so \boxed{18\text{ dollars}}", "18", True),
        (r"so \boxed{50\%}", "50", True),
        (r"so \boxed{\frac{1}{2}}", "0.5", True),
        (r"so \boxed{\dfrac{1}{2}}", r"\frac12", True),
        (r"so \boxed{1\frac{1}{2}}", r"\frac{3}{2}", True),
        (r"so \boxed{0.3333333}", r"\frac{1}{3}", True),
        (r"so \boxed{0.333}", r"\frac{1}{3}", False),
        (r"so \boxed{\left( 3, \frac{\pi}{2} \right)}", r"(3, \frac{\pi}{2})", True),
        (r"so \boxed{x^2+2x+1}", "(x+1)^2", True),
        (r"so \boxed{x = 5}", "5", True),
        (r"so \boxed{1,2}", "12", False),
        (r"so \boxed{12,34}", "1234", False),
        (r"so \boxed{(1,2)}", "(12)", False),
        (r"so \boxed{1,2}", "2,1", True),
        (r"so \boxed{(1,2)}", "(2,1)", False),
        (r"so \boxed{-1,234,567.5}", "-1234567.5", True),
        (r"so \boxed{\text{(C)}}", r"\text{C}", True),
        (r"so \boxed{73}", "72", False),
        (r"so \boxed{720}", "72", False),
        (r"\boxed{72} or rather \boxed{71}", "72", False),
        (r"\boxed{71} or rather \boxed{72}", "72", True),
    ],
)
def test_answers(response, answer, right):
    verdict = VERIFIER(response, answer)
    assert (verdict.correct, verdict.outcome) == (float(right), Outcome.GRADED)


@pytest.mark.parametrize("response", ["", "so 72", "so \\boxed{72", "so \\boxed{}", "so \\boxed{ \n }"])
def test_without_a_complete_box_there_is_no_answer(response):
    assert VERIFIER(response, "72") == Verdict(0.0, Outcome.NO_ANSWER, None)


@pytest.mark.parametrize(
    "box",
    [
        "9" * 10_000,
        "(" * (3 * MAX_DEPTH) + "72" + ")" * (3 * MAX_DEPTH),
        " ".join("x" * MAX_ANSWER_LEN),
    ],
)
def test_what_is_too_much_to_parse_is_right_only_as_text(box):
    response = VERIFIER.example_response(box)
    assert (VERIFIER(response, "72").correct, VERIFIER(response, "72").outcome) == (0.0, Outcome.UNPARSED)
    assert (VERIFIER(response, box).correct, VERIFIER(response, box).outcome) == (1.0, Outcome.GRADED)
    assert VERIFIER(response, "72").extracted_answer == VERIFIER(response, box).extracted_answer


def test_what_cannot_be_parsed_says_so():
    assert VERIFIER("\\boxed{\\frac1}", "72").outcome is Outcome.UNPARSED
    assert VERIFIER("\\boxed{72}", "\\frac1").outcome is Outcome.UNPARSED


@pytest.mark.parametrize(
    "same",
    [
        ("1/2", "0.5", ".50", "\\frac12", "\\frac{1}{2}", "\\dfrac{1}{2}", "\\frac{2}{4}", "x = \\frac{1}{2}", "$0.5$"),
        ("72", "72.0", "72.", "\\text{72}", "72\\text{ km}", "072"),
        ("12345", "12,345", "12{,}345", "12\\,345"),
        ("\\frac{\\sqrt3}{2}", "\\sqrt{3}/2", "\\frac{1}{2}\\sqrt{3}", "\\frac{3}{2\\sqrt{3}}"),
        ("1,2", "\\{2, 1\\}", "2 \\text{ and } 1", "2.0, \\frac{2}{2}"),
        ("(x+1)^2", "x^2+2x+1", "1 + 2x + x^2"),
        ("[0, \\frac12)", "\\left[0, 0.5\\right)"),
        ("\\begin{pmatrix} 1 \\\\ 0.5 \\end{pmatrix}", "\\begin{pmatrix}1\\\\ \\frac{1}{2}\\end{pmatrix}"),
        ("\\text{yes}", "\\text{ yes }", "\\text{Yes}"),
    ],
)
def test_equal_answers_are_one_vote(same):
    """By the texts that stand for them."""
    texts = [extracted(answer) for answer in same]
    assert all(VERIFIER.are_equal(first, second) for first in texts for second in texts)


def test_different_answers_are_different_votes():
    answers = [
        "72",
        "-72",
        "7.2",
        "\\frac{1}{72}",
        "72x",
        "1,2",
        "(2,1)",
        "[1,2]",
        "\\{1,2,3\\}",
        "x>1",
        "x<1",
        "\\sqrt2",
    ]
    answers += ["5\\text{ km}", "5\\text{ cm}", "x=3", "y=3", "1010_2", "1010_3", "10\\text{ a.m.}", "10\\text{ p.m.}"]
    texts = [extracted(answer) for answer in answers]
    for at, first in enumerate(texts):
        assert [second for second in texts[at + 1 :] if VERIFIER.are_equal(first, second)] == []
    long = [extracted("x" * 600 + end) for end in ("a", "b")]
    assert long[0] != long[1] and all(len(text) <= 200 for text in long)


@pytest.mark.parametrize(
    ("box", "shown"),
    [
        ("\\dfrac{2}{4}", "1/2"),
        ("0.50", "1/2"),
        ("12.50", "25/2"),
        ("1\\frac14", "5/4"),
        ("\\frac{40!}{20!20!}", "137846528820"),
        ("-3.0", "-3"),
        ("0.333333", "0.333333"),
        ("$x = 5$.", "x = 5"),
        ("5\\text{ km}", "5\\text{ km}"),
        ("\u221a2", "\\surd 2"),
    ],
)
def test_numbers_are_shown_by_their_value_and_other_answers_as_written(box, shown):
    assert extracted(box) == shown


@settings(deadline=None, max_examples=25)
@given(st.integers(-999, 999), st.integers(1, 99), st.integers(1, 5))
def test_a_fraction_is_itself_however_it_is_written(above, below, factor):
    """Also expanded by a factor, and as a decimal where it has one; and the next one is another number."""
    value = Fraction(above, below)
    forms = [f"\\frac{{{above * factor}}}{{{below * factor}}}", f"{above}/{below}"]
    if Fraction(str(above / below)) == value:
        forms.append(str(above / below))
    for form in forms:
        verdict = VERIFIER(f"\\boxed{{{form}}}", f"\\frac{{{above}}}{{{below}}}")
        # A decimal of six digits or more may be rounded, and stays as it is.
        shown = form if "." in form and len(form.strip("-0").replace(".", "")) >= 6 else str(value)
        assert (verdict.correct, verdict.extracted_answer) == (1.0, shown)
        assert VERIFIER(f"\\boxed{{{form}}}", f"\\frac{{{above + 1}}}{{{below}}}").correct == 0.0


@pytest.mark.parametrize(
    ("box", "answer", "right"),
    [
        ("0.0000001", "0.0000004", 0.0),
        ("0.0000004", "\\frac{1}{1000000000}", 0.0),
        ("0.0000004", "0", 0.0),
        ("0.00000040", "\\frac{4}{10000000}", 1.0),
        ("0.166667", "\\frac{1}{6}", 1.0),
    ],
)
def test_very_small_numbers_are_not_all_equal(box, answer, right):
    """A comparison to 6 decimals takes every decimal below half a millionth for every other."""
    assert VERIFIER(f"\\boxed{{{box}}}", answer).correct == right


def test_powers_of_ten_belong_to_the_whole_fraction():
    """3/4 x 10^3 was read as 3/(4 x 10^3)."""
    for fraction in ("\\frac{3}{4}", "3/4", "\\frac34", "0.75"):
        assert VERIFIER(f"\\boxed{{{fraction} \\times 10^{{3}}}}", "750").correct == 1.0
        assert VERIFIER(f"\\boxed{{{fraction} \\cdot 10^3}}", "0.00075").correct == 0.0
    assert VERIFIER("\\boxed{10^{-3}}", "0.001").correct == 1.0


def test_thousands_do_not_begin_with_nought():
    """0,111 was read as 111 with a separator of thousands."""
    assert VERIFIER("\\boxed{0,111}", "111").correct == 0.0
    assert VERIFIER("\\boxed{0.111}", "0,111").correct == 1.0


def test_an_upright_e_is_no_unit():
    r"""\mathrm{e} was dropped as a unit, so that 1 - 1/e and 1 + 1/\mathrm{e} were left equally broken."""
    assert VERIFIER(r"\boxed{1 - \frac{1}{\mathrm{e}}}", r"1 - \frac{1}{e}").correct == 1.0
    assert VERIFIER(r"\boxed{1 + \frac{1}{\mathrm{e}}}", r"1 - \frac{1}{\mathrm{e}}").correct == 0.0


def test_units_within_expressions_are_not_dropped():
    """Of answers that hold units half a fraction was kept, and then different ones were taken for equal."""
    assert VERIFIER(r"\boxed{1 + \frac{1}{\mathrm{m}}}", r"1 + \frac{1}{\mathrm{s}}").correct == 0.0


def test_a_value_that_does_not_exist_equals_nothing_and_says_so():
    """A comparison that failed for its own reasons counted as "differs"."""
    verdict = VERIFIER("\\boxed{\\lim_{x \\to 0} \\frac{0}{0} + 3}", "\\frac{7}{0}")
    assert (verdict.correct, verdict.outcome) == (0.0, Outcome.UNPARSED)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"units": "some"}, "units: must be lenient or strict, got 'some'"),
        ({"percent": ""}, "percent: must be lenient or strict, got ''"),
        ({"order": "any"}, "order: must be lenient or strict, got 'any'"),
        ({"rel_tol": -1.0}, "rel_tol: must be a number of at least 0, got -1.0"),
        ({"abs_tol": float("nan")}, "abs_tol: must be a number of at least 0, got nan"),
    ],
)
def test_impossible_settings_are_named(wrong, message):
    with pytest.raises(SettingError, match=message):
        MathVerifier(**wrong)


@pytest.mark.parametrize(
    ("strict", "answer", "lenient_only", "both"),
    [
        ({"units": "strict"}, "5\\text{ km}", ["5", "5000 m"], ["5 km", "5\\text{ kilometers}", "5.0\\,\\mathrm{km}"]),
        ({"units": "strict"}, "5", ["5 apples", "\\$5", "5\\text{ km}"], ["5.0"]),
        ({"units": "strict"}, "90^\\circ", ["90"], ["90 degrees", "\\frac{\\pi}{2}"]),
        ({"units": "strict"}, "52_8", ["52"], ["52_{8}"]),
        ({"percent": "strict"}, "50\\%", ["50"], ["50%", "0.5", "\\frac12"]),
        ({"order": "strict"}, "1, 2", ["2, 1"], ["1,2", "1 \\text{ and } 2"]),
        ({"order": "strict"}, "\\{1, 2\\}", [], ["\\{2, 1\\}"]),
    ],
)
def test_strict_settings_turn_one_leniency_off(strict, answer, lenient_only, both):
    verifier = MathVerifier(**strict)
    for text in lenient_only + both:
        assert VERIFIER.are_equal(text, answer)
        assert verifier.are_equal(text, answer) == verifier.are_equal(answer, text) == (text in both), text


def test_a_tolerance_is_a_share_of_the_ground_truth_or_absolute():
    for answer, close, far in (("\\frac{1}{3}", "0.333", "0.33"), ("100\\pi", "314.2", "315"), ("200", "200.1", "201")):
        for text, right in ((close, 1.0), (far, 0.0)):
            assert MathVerifier(rel_tol=1e-3)(f"\\boxed{{{text}}}", answer).correct == right
            assert MathVerifier()(f"\\boxed{{{text}}}", answer).correct == 0.0
    assert MathVerifier(abs_tol=0.5)("\\boxed{1000.4}", "1000").correct == 1.0
    assert MathVerifier(abs_tol=0.5)("\\boxed{(1.4, 2)}", "(1, 2)").correct == 1.0
    assert MathVerifier(abs_tol=0.5)("\\boxed{1000.6}", "1000").correct == 0.0


@pytest.mark.parametrize(
    "text", ["7", "(", "1,", "\\boxed{", "x", "\\frac", "-", " ", "7 ", "1/", "e", "7e7", "\\times10^", "\n"]
)
def test_very_long_responses_are_no_trouble(text):
    """A quadratic search would take minutes."""
    many = text * (200_000 // len(text))
    for response in (many, f"\\boxed{{{many}}}"):
        assert VERIFIER(response, "72").correct == 0.0


def test_the_written_answer_is_right():
    answers = [
        "72",
        "\\frac{14}{3}",
        "\\text{Evelyn}",
        "6 - 5i",
        "(-\\infty, 2) \\cup (3, \\infty)",
        "11\\sqrt{2}",
        "A",
    ]
    assert math.fsum(VERIFIER(VERIFIER.example_response(answer), answer).correct for answer in answers) == len(answers)
