"""What holds for every answer: other spellings change nothing, other numbers, signs and letters change everything."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.verify.math import MathVerifier

VERIFIER = MathVerifier()

RESPELLINGS = [
    lambda text: f"${text}$",
    lambda text: f" {text} .",
    lambda text: f"\\left. {text} \\right.",
    lambda text: f"\\displaystyle {text}",
    lambda text: f"{{{text}}}",
    lambda text: text.replace("\\frac", "\\dfrac"),
    lambda text: text.replace("(", "\\left(").replace(")", "\\right)"),
    lambda text: text.replace(" ", "\\, "),
    lambda text: text.replace("-", "\u2212"),
    lambda text: text.replace("\\sqrt{2}", "\u221a2").replace("\\pi", "\u03c0"),
    lambda text: text.replace("^2", "\u00b2"),
    lambda text: text.replace("\\cdot", "\\times"),
    lambda text: f"\\boldsymbol{{{text}}}",
    lambda text: f"\\({text}\\)",
]

whole = st.integers(-999, 999)
fraction = st.tuples(whole, st.integers(2, 99)).map(lambda p: f"\\frac{{{p[0]}}}{{{p[1]}}}")
number = st.one_of(
    whole.map(str),
    fraction,
    st.tuples(whole, st.integers(0, 99)).map(lambda p: f"{p[0]}.{p[1]:02}"),
    whole.map(lambda n: f"{n} \\sqrt{{2}}"),
    st.tuples(whole, whole).map(lambda p: f"{p[0]} + {abs(p[1])} \\pi"),
    st.integers(1, 60).map(lambda n: f"2^{{-{n}}}"),
)
nonzero = number.filter(lambda text: not VERIFIER.are_equal(text, "0"))
formula = st.tuples(nonzero, number, st.sampled_from("xyab"), st.sampled_from("mnRr")).map(
    lambda p: f"({p[0]}) {p[2]}^2 - \\frac{{{p[3]}}}{{3}} + ({p[1]}) \\cdot {p[3]}"
)
single = st.one_of(number, formula)
several = st.lists(single, min_size=2, max_size=4)
answer = st.one_of(
    single,
    several.map(", ".join),
    several.map(lambda parts: f"({', '.join(parts)})"),
    several.map(lambda parts: f"\\{{{', '.join(parts)}\\}}"),
    number.map(lambda n: f"[{n}, 10000)"),
    number.map(lambda n: f"x > {n}"),
    single.map(lambda text: f"k = {text}"),
    st.tuples(whole, st.sampled_from(["cm", "hours", "m/s", "apples"])).map(lambda p: f"{p[0]}\\text{{ {p[1]}}}"),
    several.map(lambda parts: f"\\begin{{pmatrix}} {' & '.join(parts)} \\end{{pmatrix}}"),
    st.tuples(st.integers(1, 12), st.integers(0, 59)).map(lambda p: f"{p[0]}:{p[1]:02}"),
)


@settings(max_examples=150)
@given(answer, st.sampled_from(RESPELLINGS), st.sampled_from(RESPELLINGS))
def test_another_spelling_is_the_same_answer(text, first, second):
    respelled = first(second(text))
    assert VERIFIER.are_equal(text, respelled) and VERIFIER.are_equal(respelled, text), respelled


@settings(max_examples=150)
@given(answer, answer)
def test_equality_is_symmetric(first, second):
    assert VERIFIER.are_equal(first, second) == VERIFIER.are_equal(second, first)


@settings(max_examples=100)
@given(answer, st.data())
def test_another_digit_is_another_answer(text, data):
    """Whichever digit is changed; in the middle of a number, an exponent, or a set."""
    places = [at for at, character in enumerate(text) if character in "123456789"]
    if not places:
        return
    at = data.draw(st.sampled_from(places))
    other = text[:at] + data.draw(st.sampled_from([d for d in "123456789" if d != text[at]])) + text[at + 1 :]
    if "frac{0}" in text or "0 \\sqrt" in text or "(0)" in text:
        # Nought times anything stays nought.
        return
    assert not VERIFIER.are_equal(text, other), other


@settings(max_examples=100)
@given(formula, st.sampled_from(["mM", "xX", "aA", "rR", "yY", "bB", "nN"]))
def test_another_letter_is_another_answer(text, letters):
    other = text.translate(str.maketrans(letters, letters[::-1]))
    assert VERIFIER.are_equal(text, other) == (text == other)


@settings(max_examples=100)
@given(single)
def test_the_negative_is_another_answer(text):
    is_zero = VERIFIER.are_equal(text, "0")
    assert VERIFIER.are_equal(f"-({text})", text) == is_zero


@settings(max_examples=100)
@given(several, st.randoms())
def test_only_lists_and_sets_have_no_order(parts, rng):
    mixed = parts.copy()
    rng.shuffle(mixed)
    for opening, closing in (("", ""), ("\\{", "\\}")):
        assert VERIFIER.are_equal(opening + " , ".join(parts) + closing, opening + ", ".join(mixed) + closing)
    is_same_order = all(VERIFIER.are_equal(one, other) for one, other in zip(parts, mixed, strict=True))
    assert VERIFIER.are_equal(f"({', '.join(parts)})", f"({', '.join(mixed)})") == is_same_order


def mixed_sum(value: Fraction) -> str:
    """The whole part plus the rest."""
    rest = Fraction(abs(value.numerator) % value.denominator, value.denominator)
    return f"{'-' if value < 0 else ''}({abs(value.numerator) // value.denominator} + {rest})"


@settings(max_examples=20)
@given(st.lists(st.fractions(max_denominator=50).filter(lambda f: abs(f) < 10**6), min_size=3, max_size=3))
def test_equality_of_rational_numbers_is_that_of_fractions(values):
    """However they are written; so it is transitive, too."""
    forms = [
        lambda f: f"\\frac{{{f.numerator}}}{{{f.denominator}}}",
        lambda f: f"{3 * f.numerator}/{3 * f.denominator}",
        lambda f: f"{f.numerator} \\cdot {f.denominator}^{{-1}}",
        mixed_sum,
    ]
    for first in values:
        for second in values:
            for one in forms:
                for other in forms:
                    assert VERIFIER.are_equal(one(first), other(second)) == (first == second)


@settings(max_examples=100)
@given(st.text(max_size=60), st.text(max_size=20))
def test_any_text_equals_itself_and_stops_nothing(text, other):
    assert VERIFIER.are_equal(text, text)
    assert VERIFIER.are_equal(text, other) == VERIFIER.are_equal(other, text)
    VERIFIER(f"\\boxed{{{text}}}", other)


TOKENS = [
    "1",
    "2",
    "0",
    "0.5",
    "x",
    "y",
    "e",
    "i",
    "+",
    "-",
    "*",
    "/",
    "^",
    "_",
    "!",
    "=",
    "<",
    "\\le",
    "\\ne",
    ",",
    ";",
    ":",
    "(",
    ")",
    "[",
    "]",
    "\\{",
    "\\}",
    "{",
    "}",
    "|",
    "\\frac",
    "\\sqrt",
    "\\pi",
    "\\infty",
    "\\sin",
    "\\log",
    "\\pm",
    "\\cup",
    "\\cap",
    "\\setminus",
    "\\in",
    "\\text{",
    "cm",
    "m",
    "and",
    "or",
    "^\\circ",
    "%",
    "\\$",
    "$",
    "\\binom",
    "\\sum",
    "\\int",
    "\\lim",
    "_{",
    "^{",
    "\\ldots",
    "\\overline",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "&",
    "\\\\",
    "\\lfloor",
    "\\rfloor",
    "'",
    "f(",
    "\\quad",
    "\\approx",
    "hours",
    "million",
    "a.m.",
    "\\R",
    "U",
    "²",
    "½",
    "√",
    "gcd(",
    "e5",
    "10^",
    "\\angle",
    "d",
    "\\over",
    "\\choose",
    "to",
    "June",
    "(B)",
    "**",
    ">",
    "2:3",
]


@settings(max_examples=300)
@given(st.lists(st.sampled_from([*TOKENS, " ", " "]), max_size=25).map("".join))
def test_any_mixture_of_signs_equals_itself_and_stops_nothing(text):
    assert VERIFIER.are_equal(text, text)
    VERIFIER(f"\\boxed{{{text}}}", "x+1")
