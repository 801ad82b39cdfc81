"""Numbers in answers: every spelling of them, and what is none."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.data.problem import Outcome, Verdict
from treepo.errors import SettingError
from treepo.verify.math import MathVerifier
from treepo.verify.numbers import find_numbers, last_number, read_number
from treepo.verify.numeric import NumericVerifier, number_of

THOUSANDS = [
    *(",", "{,}", ",\\!", "\\,", "\\ ", "\\;", "\\:", "\\!", "~", " ", "'", "\u2019", "{\\,}"),
    *("\u00a0", "\u2009", "\u202f", "\u2007", "\uff0c"),
]
FALLBACK = NumericVerifier(extract_from=("box", "last_number"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", 72),
        ("72.", 72),
        ("+72", 72),
        ("-1,234.5", Fraction(-2469, 2)),
        ("\u22123", -3),
        ("\u20133", -3),
        ("- 5", -5),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        ("3 / 4", Fraction(3, 4)),
        ("3\u20444", Fraction(3, 4)),
        ("-\\frac{3}{4}", Fraction(-3, 4)),
        ("\\dfrac{-3}{4}", Fraction(-3, 4)),
        ("\\frac34", Fraction(3, 4)),
        ("\\tfrac 3 4", Fraction(3, 4)),
        ("\\frac{1,000}3", Fraction(1000, 3)),
        ("1 1/4", Fraction(5, 4)),
        ("11 5/6", Fraction(71, 6)),
        ("-1 1/4", Fraction(-5, 4)),
        ("1\\frac14", Fraction(5, 4)),
        ("1 \\frac{1}{4}", Fraction(5, 4)),
        ("1\\,\\tfrac{1}{4}", Fraction(5, 4)),
        ("1,000 1/2", Fraction(2001, 2)),
        ("\u00bd", Fraction(1, 2)),
        ("1\u00bd", Fraction(3, 2)),
        ("1 \u2153", Fraction(4, 3)),
        ("2e3", 2000),
        ("2.5E-1", Fraction(1, 4)),
        ("2 \\times 10^3", 2000),
        ("4.5\\times10^{-3}", Fraction(9, 2000)),
        ("3\\,\\cdot\\,10^{8}", 3 * 10**8),
        ("4.5\u00d710\u00b3", 4500),
        ("4.5 x 10^3", 4500),
        ("2*10**3", 2000),
        ("10^{-2}", Fraction(1, 100)),
        ("10^12", 10**12),
        ("10\u207b\u00b9", Fraction(1, 10)),
    ],
)
def test_a_number_is_read_in_any_of_its_spellings(text, value):
    assert read_number(text) == value
    assert number_of(f"x = {text} \\text{{ m}}^2") == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "48 24", "1 2 4", "48 24/5", "2 3/2", "1-1/4", "1/2/3", "3/4 \\times 10^3", "12:30", "2024-05-01"),
        *("1,2345", "1,23", "1,234,56", "1.234,56", "1,234 567", "3{,}14", "1 125/250", "0,123"),
        *("1/0", "\\frac{1}{0}", "1e999", "1e9999999999", "10^{401}", "7" * 101, "6^{72}", "6^72", "5\u00b2"),
        *("\\frac{x}{2}", "2\\pi", "\uff17\u0662", "1e", "."),
    ],
)
def test_what_is_no_number_or_several_is_not_read(text):
    """48 24 is neither 24 nor 72."""
    assert read_number(text) is None


@settings(max_examples=80, deadline=None)
@given(st.integers(1000, 10**12), st.sampled_from(THOUSANDS), st.sampled_from(["", ".5", ".250"]))
def test_thousands_are_read_with_anything_that_may_stand_between_them(number, comma, part):
    text = f"{number:,}".replace(",", comma) + part
    assert read_number(text) == number + Fraction(part or 0)
    assert number_of(f"about ${text}$ units") == number + Fraction(part or 0)
    assert last_number(f"first 7, then {text}.").value == number + Fraction(part or 0)


@settings(max_examples=50, deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(0, 6))
def test_a_number_is_read_back_with_and_without_commas(number, places):
    verifier = NumericVerifier()
    for text in (f"{number:,}", str(number), f"{number:,}.{'0' * places}", f"{number}e0", f"about {number} units"):
        assert verifier(f"\\boxed{{{text}}}", str(number)) == Verdict(1.0, Outcome.GRADED, str(number))
        assert verifier(f"\\boxed{{{text}}}", str(number + 1)).correct == 0.0


@given(st.integers(0, 999), st.integers(0, 50), st.integers(1, 50), st.sampled_from([" ", "~", "\\,", "\\ "]))
def test_a_whole_number_before_a_proper_fraction_is_mixed(whole, top, bottom, gap):
    """Before an improper one it is another number."""
    value = read_number(f"{whole}{gap}{top}/{bottom}")
    assert value == (whole + Fraction(top, bottom) if 0 < top < bottom else None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("\\$1,234.50", Fraction(2469, 2)),
        ("-$5", -5),
        ("-\\$1,000", -1000),
        ("USD72", 72),
        ("Rs.72", 72),
        ("72 cm^{3}", 72),
        ("72 m2", 72),
        ("72 m\u00b2", 72),
        ("72^\\circ", 72),
        ("-72^{\\circ}\\mathrm{C}", -72),
        ("2^{\\text{nd}}", 2),
        ("75\\%", 75),
        ("**72**", 72),
        ("\\text{about } 72 \\text{ apples}", 72),
        ("72 km/h", 72),
        ("72,", 72),
        ("8 more than Bob", 8),
        ("2+3=5", 5),
        ("x^2 = 49", 49),
        ("3.14159 \\approx 3.14", Fraction(157, 50)),
        ("n = 1,000 = 1000", 1000),
        ("5 \\text{ million}", 5_000_000),
        ("$2.5$ thousand", 2500),
    ],
)
def test_what_stands_beside_the_number_is_passed_over(text, value):
    assert number_of(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("5 or 6", "1/2 of 3", "48 24", "1, 2", "10-5", "5 to 6", "2 hours 30 minutes", "a = 5, b = 6", "5; 6"),
        *("3 or more", "at least 3", "more than 3", "not 3", "3 or any other", "x > 3", "x \\ge 3", "3 \\ne 4"),
        *("\\sqrt{3}", "\u221a3", "sqrt(3)", "3\\pi", "3\u03c0", "3!", "|-3|", "\\pm 3", "x - 3", "3 - x", "3+"),
        *("\\frac{3}{4}^2", "3e^2", "43=42"),
        *("6^{72}", "\\log 3", "none", "", "3" * 2000),
    ],
)
def test_an_answer_that_is_not_one_plain_number_has_no_value(text):
    """The last number of 5 or 6, or what stands in a root, once passed for the answer."""
    assert number_of(text) is None
    last = text.split()[-1] if text else ""
    assert NumericVerifier()(f"\\boxed{{{text}}}", "3" if "3" in last else "6").correct == 0.0


@pytest.mark.parametrize(
    ("verifier", "response", "answer", "right"),
    [
        (NumericVerifier(), "\\boxed{72}", "72.0", True),
        (NumericVerifier(), "\\boxed{75\\%}", "75%", True),
        (NumericVerifier(), "\\boxed{\\frac{1}{4}}", "4", False),
        (NumericVerifier(), "\\boxed{1 1/4}", "5/4", True),
        (NumericVerifier(), "\\boxed{10\\,000}", "10 000", True),
        (NumericVerifier(), "\\boxed{none}", "none", True),
        (NumericVerifier(), "\\boxed{5 or 6}", "5 or 6", True),
        (NumericVerifier(), "\\boxed{0.1}", "0.10000000000000000001", False),
        (NumericVerifier(rel_tol=0.01), "\\boxed{101}", "100", True),
        (NumericVerifier(rel_tol=0.01), "\\boxed{-101}", "-102", True),
        (NumericVerifier(rel_tol=0.01), "\\boxed{102}", "100", False),
        (NumericVerifier(rel_tol=0.01), "\\boxed{0.0001}", "0", False),
        (NumericVerifier(abs_tol=0.01), "\\boxed{0.0001}", "0", True),
        (NumericVerifier(abs_tol=0.01), "\\boxed{1.011}", "1", False),
        (NumericVerifier(rel_tol=0.1, abs_tol=0.01), "\\boxed{1.1}", "1", True),
        (FALLBACK, "It is 3, no, 72.", "72", True),
        (FALLBACK, "\\boxed{3}, not 72", "72", False),
        (FALLBACK, "\\boxed{3}, not 72", "3", True),
        (NumericVerifier(extract_from=("phrase",)), "The answer is 1,234 apples.", "1234", True),
        (NumericVerifier(extract_from=("last_number",)), "5 apples and 6 m2", "6", True),
        (NumericVerifier(extract_from=("last_number",)), "<think>5</think> 6 <think>7</think>", "6", True),
    ],
)
def test_what_is_right(verifier, response, answer, right):
    verdict = verifier(response, answer)
    assert (verdict.correct, verdict.outcome) == (float(right), Outcome.GRADED)


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        ("72", Outcome.NO_ANSWER),
        ("<think>\\boxed{72}</think>", Outcome.NO_ANSWER),
        ("\\boxed{72} or \\boxed{7", Outcome.NO_ANSWER),
        ("\\boxed{many}", Outcome.UNPARSED),
        ("\\boxed{48 72}", Outcome.UNPARSED),
        ("\\boxed{1/0}", Outcome.UNPARSED),
        ("\\boxed{" + "7" * 1_000_000 + "}", Outcome.UNPARSED),
    ],
)
def test_why_it_is_not_compared(response, outcome):
    assert NumericVerifier()(response, "72") == Verdict(0.0, outcome, NumericVerifier()(response, "1").extracted_answer)


def test_equal_numbers_are_one_answer_within_the_tolerance():
    """Of two answers neither is the ground truth, so the tolerance is a share of the larger one: symmetric."""
    exact, close = NumericVerifier(), NumericVerifier(rel_tol=0.01)
    for first, second, equal, nearly in (
        ("5/4", "1.25", True, True),
        ("100", "101", False, True),
        ("100", "-100", False, False),
        ("many", "many", True, True),
        ("many", "5", False, False),
    ):
        for pair in ((first, second), (second, first)):
            assert (exact.are_equal(*pair), close.are_equal(*pair)) == (equal, nearly)


@pytest.mark.parametrize("name", ["rel_tol", "abs_tol"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_impossible_tolerances_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name}: must be a number of at least 0, got"):
        NumericVerifier(**{name: value})


@given(st.text(alphabet="0123456789 .,/-\\frac{}^\u00bde\u00d710~'$", max_size=40))
def test_any_text_is_read(text):
    """Numbers lie one behind the other; what is read as a whole is also found."""
    found = list(find_numbers(text))
    ends = [end for number in found for end in number[:2]]
    assert ends == sorted(ends)
    if (value := read_number(text)) is not None and text.strip()[0] not in "-+\u2212\u2013":
        assert [number.value for number in found] == [value]
    verdict = FALLBACK(text, text)
    assert verdict.correct in (0, 1)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "7",
            "1,",
            "1,234",
            "7/",
            "-",
            "e7",
            "{",
            "\\text",
            "\\frac",
            "1 ",
            "x^2",
            "1 1/",
            "1,000,",
            "10^",
            "\\frac{1",
        ),
        *("\u00bd", "9'000", "1~", "\\,", "<think>", "answer is ", "$"),
    ],
)
def test_very_long_responses_are_no_trouble(text):
    """A quadratic search would take minutes."""
    many = text * (100_000 // len(text))
    for response in (many, f"\\boxed{{{many}}}"):
        assert FALLBACK(response, "B").correct == 0.0


@pytest.mark.parametrize("verifier", [MathVerifier, NumericVerifier])
def test_a_tolerance_that_makes_every_number_right_is_refused(verifier: type) -> None:
    """rel_tol = 1e30 was taken, and no answer was wrong."""
    with pytest.raises(SettingError, match="rel_tol: must be below 1"):
        verifier(rel_tol=1.0)
    verifier(rel_tol=0.5)
