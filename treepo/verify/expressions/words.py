"""Words in answers: functions, constants, hedges, and words that are an answer of their own."""

from treepo.utils.text import table_of, words_of
from treepo.verify.expressions.units import UNIT_NAMES

FUNCTIONS = table_of(
    """
    sin: sin sen
    cos: cos
    tan: tan tg
    cot: cot ctg
    sec: sec
    csc: csc cosec
    sinh: sinh
    cosh: cosh
    tanh: tanh
    coth: coth
    sech: sech
    csch: csch
    arcsin: arcsin asin
    arccos: arccos acos
    arctan: arctan atan arctg
    arccot: arccot
    arcsec: arcsec
    arccsc: arccsc
    arsinh: arsinh arcsinh
    arcosh: arcosh arccosh
    artanh: artanh arctanh
    sgn: sgn sign
    log: log lg
    ln: ln
    exp: exp
    sqrt: sqrt
    cbrt: cbrt
    abs: abs
    floor: floor
    ceil: ceil
    gcd: gcd
    lcm: lcm
    max: max
    min: min
    binom: binom
    det: det
    Re: Re
    Im: Im
    arg: arg Arg
    cis: cis
    """
)
"""How functions are written, and one name for each."""

CONSTANTS = table_of(
    r"""
    \pi: pi
    \infty: infinity infty inf oo
    """
)
"""Constants that are written as words."""

HEDGES = words_of(
    """
    about above added after almost although and another any approx approximately are around at be been before
    being below between beyond both but can could cubed decreased depending did divided do does double doubled
    either else equal equals every exceeding exceeds except false fewer fifths for from greater had half halved
    halves has have hundredths if incorrect increased instead is isn't least less may maybe might minus more
    most multiplied nearly neither nor not or other otherwise over perhaps plus possibly quarter quarters raised
    rather reduced roughly should some squared subtracted tenths than there third thirds though through times to
    tripled twice under unless unlike until untrue up versus vs was were when where whereas whichever while will
    with without would wrong
    """
)
"""Words that change what a number says; a number with one of them is no number."""

FILLERS = words_of("a all altogether an each exactly in left only overall remaining the total")
"""Words behind a number and its unit that change nothing."""

NOTES = words_of(
    """
    long tall high wide deep thick old away north south east west northeast northwest southeast southwest up down left
    right forward backward ago later earlier faster slower longer shorter taller older younger profit loss gain
    clockwise counterclockwise anticlockwise
    """
)
"""Words that may stand behind a unit; two answers that have some must have the same."""

MASS_NOUNS = words_of(
    """
    people men women children mice geese feet teeth sheep fish deer aircraft oxen yuan yen won baht rand money water
    rupees rmb kwacha dong forint points
    """
)
"""Nouns of several things that do not end in s."""

_SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
    "ten": 10,
}
SCALES = _SCALES | {f"{word}s": value for word, value in _SCALES.items()}
"""Words that multiply the number before them."""

_COUNTED = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty
"""
NUMBER_WORDS = {word: value for value, word in enumerate(_COUNTED.split())}

PREFIX_WORDS = words_of("so thus therefore hence the my our final correct right answer is are there option choice")
"""Words of "the answer is", which says nothing."""

EMPTY = {"no solution", "no solutions", "no real solution", "no real solutions", "empty set", "the empty set"}
"""Texts that name the empty set."""

ALL_REAL = {"all real numbers", "all reals", "all real values", "real numbers", "any real number"}
"""Texts that name the set of all real numbers."""

SAME_TEXT = {
    **dict.fromkeys(("dne", "does not exist", "doesn't exist", "the limit does not exist"), "does not exist"),
    **dict.fromkeys(("infinitely many", "infinitely many solutions", "infinite solutions"), "infinitely many"),
    **dict.fromkeys(("undefined", "not defined", "is undefined"), "undefined"),
}
"""Texts that say the same."""

ANSWER_WORDS = words_of(
    """
    all always am ant apr are aug bag bar bat bee both box boxes boy bus can cans car cat cow cup cups day dec
    dne dog east egg even false fan feb fly fox fri girl hat hen is jan jar jul jun kid man map mar mat max may
    men midnight min mon neither never no none noon north nov oct odd of pen per pie pig pm red row rug sat sep
    sometimes south spring summer sun the thu toy true tue way wed west women yes
    """
)
"""Short words, which spelling alone does not tell from products of letters."""


def is_word(run: str) -> bool:
    """Whether letters that stand together are a word rather than a product; such as it is, by spelling."""
    lower = run.lower()
    if len(run) == 2 and not run.islower() and run not in UNIT_NAMES:
        return lower in {"am", "pm"} or (run.istitle() and lower in ANSWER_WORDS)
    if run in UNIT_NAMES or lower in ANSWER_WORDS or lower in HEDGES or lower in SCALES or lower in NUMBER_WORDS:
        return True
    has_word_case = run.islower() or run.istitle() or (run.isupper() and len(run) > 4)
    return len(run) >= 4 and has_word_case and any(vowel in lower for vowel in "aeiouy") and len(set(lower)) > 2
