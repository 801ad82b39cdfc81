"""Words in answers: functions, constants, hedges, and words that are an answer of their own."""

import re

from treepo.verify.expressions.units import UNIT_NAMES

FUNCTIONS = {
    **{
        name: name
        for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "sech", "csch")
    },
    **{
        name: name
        for name in ("arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc", "arsinh", "arcosh", "artanh")
    },
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "sen": "sin",
    "tg": "tan",
    "ctg": "cot",
    "cosec": "csc",
    "arctg": "arctan",
    "arcsinh": "arsinh",
    "arccosh": "arcosh",
    "arctanh": "artanh",
    "sgn": "sgn",
    "sign": "sgn",
    "log": "log",
    "ln": "ln",
    "lg": "log",
    "exp": "exp",
    "sqrt": "sqrt",
    "cbrt": "cbrt",
    "abs": "abs",
    "floor": "floor",
    "ceil": "ceil",
    "gcd": "gcd",
    "lcm": "lcm",
    "max": "max",
    "min": "min",
    "binom": "binom",
    "det": "det",
    "Re": "Re",
    "Im": "Im",
    "arg": "arg",
    "cis": "cis",
    "Arg": "arg",
}
"""How functions are written, and one name for each."""

CONSTANTS = {"pi": "\\pi", "infinity": "\\infty", "infty": "\\infty", "inf": "\\infty", "oo": "\\infty"}
"""Constants that are written as words."""

GREEK = {"alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "mu", "sigma", "phi", "omega", "rho", "tau"}

HEDGES = set(
    [
        "or",
        "and",
        "more",
        "less",
        "fewer",
        "greater",
        "than",
        "at",
        "least",
        "most",
        "about",
        "around",
        "approximately",
        "approx",
        "roughly",
        "nearly",
        "almost",
        "over",
        "under",
        "up",
        "to",
        "not",
        "any",
        "every",
        "other",
        "another",
        "either",
        "neither",
        "both",
        "if",
        "when",
        "where",
        "for",
        "except",
        "but",
        "maybe",
        "perhaps",
        "possibly",
        "plus",
        "minus",
        "times",
        "else",
        "with",
        "without",
        "from",
        "between",
        "through",
        "until",
        "some",
        "above",
        "below",
        "beyond",
        "before",
        "after",
        "there",
        "exceeding",
        "unless",
        "whichever",
        "depending",
        "otherwise",
        "versus",
        "vs",
        "half",
        "quarter",
        "third",
        "double",
        "twice",
    ]
)
"""Words that change what a number says; a number with one of them is no number."""

FILLERS = set(
    ["total", "altogether", "each", "left", "remaining", "exactly", "only", "in", "all", "overall", "the", "a", "an"]
)
"""Words behind a number and its unit that change nothing."""

SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
    "hundreds": 10**2,
    "thousands": 10**3,
    "millions": 10**6,
    "billions": 10**9,
    "dozens": 12,
}

NUMBER_WORDS = {
    word: value
    for value, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
            "twenty",
        ]
    )
}

EMPTY = {"no solution", "no solutions", "no real solution", "no real solutions", "empty set", "the empty set"}
"""Texts that name the empty set."""

SAME_TEXT = {
    **dict.fromkeys(("dne", "does not exist", "doesn't exist", "the limit does not exist"), "does not exist"),
    **dict.fromkeys(("infinitely many", "infinitely many solutions", "infinite solutions"), "infinitely many"),
    **dict.fromkeys(
        ("all real numbers", "all reals", "all real values", "real numbers", "any real number"), "all real"
    ),
    "not defined": "undefined",
    "is undefined": "undefined",
}

ANSWER_WORDS = set(
    [
        "yes",
        "no",
        "true",
        "false",
        "odd",
        "even",
        "none",
        "east",
        "west",
        "north",
        "south",
        "all",
        "always",
        "never",
        "sometimes",
        "both",
        "neither",
        "dne",
        "is",
        "are",
        "the",
        "of",
        "men",
        "women",
        "red",
        "boy",
        "girl",
        "hen",
        "pig",
        "cow",
        "cup",
        "cups",
        "day",
        "way",
        "box",
        "boxes",
        "bag",
        "pen",
        "cat",
        "dog",
        "ant",
        "bee",
        "fly",
        "car",
        "bus",
        "bat",
        "hat",
        "pie",
        "egg",
        "toy",
        "sun",
        "mon",
        "tue",
        "wed",
        "thu",
        "fri",
        "sat",
        "jan",
        "feb",
        "mar",
        "apr",
        "may",
        "jun",
        "jul",
        "aug",
        "sep",
        "oct",
        "nov",
        "dec",
        "max",
        "min",
        "spring",
        "summer",
        "bar",
        "row",
        "jar",
        "can",
        "cans",
        "mat",
        "rug",
        "fan",
        "fox",
        "map",
        "man",
        "kid",
    ]
)

_ANSWER_PREFIX = re.compile(
    r"(?:so |thus |therefore |hence )?,?\s?(?:the |my |our )?(?:final |correct |right )?answer\s?(?:is|:|=)\s?:?\s?",
    re.IGNORECASE,
)


def is_word(run: str) -> bool:
    """Whether letters that stand together are a word rather than a product; such as it is, by spelling."""
    lower = run.lower()
    if len(run) == 2 and not run.islower() and run not in UNIT_NAMES:
        return run.istitle() and lower in ANSWER_WORDS
    if run in UNIT_NAMES or lower in ANSWER_WORDS or lower in HEDGES or lower in SCALES or lower in NUMBER_WORDS:
        return True
    has_word_case = run.islower() or run.istitle() or (run.isupper() and len(run) > 4)
    return len(run) >= 4 and has_word_case and any(vowel in lower for vowel in "aeiouy") and len(set(lower)) > 2


def without_prefix(text: str) -> str:
    """The text without "the answer is" before it."""
    match = _ANSWER_PREFIX.match(text)
    return text[match.end() :] if match else text
