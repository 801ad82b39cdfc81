"""Numbers with units, currencies, per cent, degrees, and times of day."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from treepo.verify.expressions.answers import Value
from treepo.verify.expressions.equality import scaled
from treepo.verify.expressions.labels import change_of_depth
from treepo.verify.expressions.nodes import Apply, Node, Number
from treepo.verify.expressions.parser import parse
from treepo.verify.expressions.text import UnreadableError
from treepo.verify.expressions.tokens import LETTER, NUMBER, SIGN, WORD, Token
from treepo.verify.expressions.unit_phrases import CURRENCIES, read_unit
from treepo.verify.expressions.units import ATTACHED, DEGREE, NONE, PERCENT, Unit, combined, counted, unit_of
from treepo.verify.expressions.words import CONSTANTS, FILLERS, FUNCTIONS, HEDGES, SCALES

_CURRENCY_CODES = {"USD", "EUR", "GBP", "JPY"}
_LETTER_UNITS = set("mgsALNJWCVFThdlK")
"""Letters that may be units where a blank goes before them."""


def read_value(tokens: Sequence[Token]) -> Value:
    """A number or an expression, with its unit; raises UnreadableError."""
    if currency := _leading_currency(tokens):
        sign, unit, rest = currency
        inner = read_value(rest)
        if inner.unit is not None and inner.unit != unit:
            unit = _per(unit, inner.unit)
        return Value(
            parse([*sign, Token(SIGN, "("), *rest_of_value(rest), Token(SIGN, ")")]) if sign else inner.node, unit
        )
    at = _start_of_unit(tokens)
    if at is None:
        return _without_unit(tokens)
    behind = next((k for k in range(at + 1, len(tokens)) if _begins_number(tokens, k)), len(tokens))
    first = _with_unit(tokens[:at], tokens[at:behind])
    if behind == len(tokens):
        return first
    return added(first, read_value(tokens[behind:]))


def _per(currency: Unit, unit: Unit) -> Unit:
    """$5 per hour; raises UnreadableError for a unit that is not below the line."""
    if any(power > 0 for _, power in unit.dimension):
        raise UnreadableError("two units")
    return combined(currency, unit)


def rest_of_value(tokens: Sequence[Token]) -> Sequence[Token]:
    """The tokens without a unit behind them."""
    at = _start_of_unit(tokens)
    return tokens if at is None else tokens[:at]


def added(first: Value, second: Value) -> Value:
    """A quantity in several units, in the first one: 1 hour 30 minutes; raises UnreadableError for other pairs."""
    units = first.unit, second.unit
    if units[0] is None or units[1] is None or units[0].dimension != units[1].dimension:
        raise UnreadableError("two numbers")
    ratio = units[1].factor / units[0].factor
    if ratio >= 1:
        raise UnreadableError("a smaller unit before a larger one")
    return Value(Apply("add", (first.node, scaled(second.node, ratio))), units[0], is_compound=True)


def _leading_currency(tokens: Sequence[Token]) -> tuple[list[Token], Unit, Sequence[Token]] | None:
    sign = [token for token in tokens[:1] if token.text in {"-", "+"}]
    head = tokens[len(sign) : len(sign) + 1]
    name = CURRENCIES.get(head[0].text, head[0].text) if head else ""
    unit = unit_of(name) if name in CURRENCIES.values() or name in _CURRENCY_CODES else None
    return None if unit is None else (sign, unit, tokens[len(sign) + 1 :])


def _begins_number(tokens: Sequence[Token], at: int) -> bool:
    return tokens[at].kind == NUMBER and tokens[at - 1].text not in {"^", "/", "-", "{", "_"}


def _start_of_unit(tokens: Sequence[Token]) -> int | None:
    """The first token of the unit behind a number; None without one."""
    depth = 0
    for at in range(1, len(tokens)):
        depth += change_of_depth(tokens[at - 1])
        if depth == 0 and _may_start_unit(tokens, at):
            return at
    return None


def _may_start_unit(tokens: Sequence[Token], at: int) -> bool:
    token, before = tokens[at], tokens[at - 1]
    if before.text in {"+", "-", "/", "^", "_", "(", "{", "\\frac", "\\sqrt"} or before.text in CURRENCIES:
        return False
    if token.text in CURRENCIES or _is_unit_fraction(tokens[at:]):
        return True
    if token.text == "/" and at + 1 < len(tokens):
        return tokens[at + 1].upright and unit_of(tokens[at + 1].text) is not None
    if token.text == "(" and at + 1 < len(tokens) and tokens[at + 1].kind == WORD:
        return token.spaced and tokens[at + 1].text not in FUNCTIONS and tokens[at + 1].text not in CONSTANTS
    if token.kind == WORD:
        return _is_word_of_unit(tokens, at)
    return token.kind == LETTER and before.kind != LETTER and _is_letter_of_unit(tokens, at)


def _is_word_of_unit(tokens: Sequence[Token], at: int) -> bool:
    token, before = tokens[at], tokens[at - 1]
    if token.text in FUNCTIONS or token.text in CONSTANTS:
        # The word min is a unit where it ends the answer.
        return token.text == "min" and at == len(tokens) - 1
    if token.upright or token.text in HEDGES:
        return True
    is_attached = token.text in ATTACHED or (len(token.text) > 3 and unit_of(token.text) is not None)
    return (token.spaced and before.kind != LETTER) or (is_attached and before.kind == NUMBER)


def _is_letter_of_unit(tokens: Sequence[Token], at: int) -> bool:
    r"""Upright letters, a bare C behind a sign of degrees, and bare letters with a blank before them: 5 m."""
    token, before = tokens[at], tokens[at - 1]
    if token.text == "\\mu" and at + 1 < len(tokens):
        return tokens[at + 1].upright and unit_of("\\mu" + tokens[at + 1].text) is not None
    if token.text in {"C", "F"} and at == len(tokens) - 1 and "\\circ" in {t.text for t in tokens[max(0, at - 2) : at]}:
        return True
    if token.upright:
        return unit_of(token.text) is not None and (before.kind == NUMBER or before.text in {"}", "\\circ"})
    end = next((k for k in range(at + 1, len(tokens)) if _begins_number(tokens, k)), len(tokens))
    rest = [t for t in tokens[at:end] if t.text not in {"{", "}"}]
    return token.spaced and token.text in _LETTER_UNITS and before.kind == NUMBER and _is_unit(rest)


def _is_unit_fraction(tokens: Sequence[Token]) -> bool:
    r"""Whether \\frac{\\text{m}}{\\text{s}} comes next."""
    return len(tokens) > 6 and tokens[0].text == "\\frac" and tokens[2].upright and tokens[2].kind in {LETTER, WORD}


def _is_unit(tokens: Sequence[Token]) -> bool:
    """Whether bare letters can be read as a unit: m, m/s, m/s^2."""
    return all(
        (t.kind == LETTER and t.text in _LETTER_UNITS)
        or (t.kind == WORD and unit_of(t.text) is not None)
        or t.text in {"/", "^", "2", "3"}
        for t in tokens
    )


def _with_unit(tokens: Sequence[Token], unit_tokens: Sequence[Token]) -> Value:
    while tokens and tokens[-1].text in {"*", "-"}:
        tokens = tokens[:-1]
    node = parse(tokens)
    while unit_tokens and unit_tokens[0].text in SCALES:
        node = scaled(node, Fraction(SCALES[unit_tokens[0].text]))
        unit_tokens = unit_tokens[1:]
    if [token.text for token in unit_tokens] in (["(", "approximately", ")"], ["\\quad"]):
        unit_tokens = []
    product = None
    if unit_tokens and unit_tokens[0].kind == LETTER and not unit_tokens[0].upright:
        try:
            product = parse([*tokens, *unit_tokens])
        except UnreadableError:
            product = None
    unit, note = _one_thing(node, unit_tokens) or read_unit(unit_tokens)
    node, own = _sign_behind(node)
    if own is not None:
        unit = (
            combined(own, unit)
            if own is PERCENT and unit.dimension
            else own
            if unit == NONE
            else _temperature(own, unit)
        )
    if not unit.dimension:
        return Value(scaled(node, unit.factor), None, product=product, note=note)
    return Value(node, unit, product=product, note=note)


def _one_thing(node: Node, tokens: Sequence[Token]) -> tuple[Unit, str] | None:
    """1 apple, half an apple: a noun in the singular; None for more, and for units of measurement."""
    words = [token.text.lower() for token in tokens]
    is_one = isinstance(node, Number) and 0 < abs(node.value) <= 1
    is_noun = len(tokens) == 1 and tokens[0].kind == WORD and unit_of(words[0]) is None
    if not (is_one and is_noun) or words[0] in HEDGES or words[0] in FILLERS:
        return None
    return counted(words[0]), ""


def _temperature(own: Unit, unit: Unit) -> Unit:
    """Degrees of a scale: those before a C or F, or the word for it; raises UnreadableError for other pairs."""
    for scale, letter in (("celsius", "C"), ("fahrenheit", "F")):
        if own == DEGREE and unit in {unit_of(scale), unit_of(letter)}:
            return unit_of(scale) or DEGREE
    raise UnreadableError("two units")


def _degrees_and_minutes(tokens: Sequence[Token]) -> Value | None:
    """30 degrees 15' 20", the parts of an angle; None for anything else."""
    texts = [token.text for token in tokens if token.text not in {"^", "{", "}"}]
    marks = [text if text != '"' else "''" for text in texts if not text[:1].isdecimal()]
    numbers = [text for text in texts if text[:1].isdecimal()]
    if texts[1::2] != marks or marks[:2] != ["\\circ", "'"] or len(numbers) != len(marks):
        return None
    if marks[2:] not in ([], ["''"]):
        return None
    return Value(Number(sum((Fraction(text) / 60**at for at, text in enumerate(numbers)), Fraction(0))), DEGREE)


def _without_unit(tokens: Sequence[Token]) -> Value:
    """An expression, perhaps with one sign of degrees or per cent, which belongs to all of it: 270/7 degrees."""
    if (angle := _degrees_and_minutes(tokens)) is not None:
        return angle
    for sign, unit in (
        (("^", "\\circ"), DEGREE),
        (("^", "{", "\\circ", "}"), DEGREE),
        (("\\circ",), DEGREE),
        (("%",), PERCENT),
    ):
        head, tail = tokens[: -len(sign)], tokens[-len(sign) :]
        if head and tuple(token.text for token in tail) == sign and not any(_ends_scope(token) for token in head[1:]):
            return Value(parse(head), unit) if not _ends_scope(head[0]) or head[0].text == "-" else Value(parse(tokens))
    return Value(parse(tokens))


def _ends_scope(token: Token) -> bool:
    """Whether a sign of degrees behind it belongs to less than the whole expression."""
    return token.text in {"+", "-", "\\circ", "%"} or token.text.removeprefix("\\") in FUNCTIONS


def _sign_behind(node: Node) -> tuple[Node, Unit | None]:
    """The number before a degree or per cent sign, and the unit that the sign is."""
    is_negative = isinstance(node, Apply) and node.function == "neg"
    inner = node.arguments[0] if isinstance(node, Apply) and is_negative else node
    if not isinstance(inner, Apply) or inner.function not in {"degree", "percent"}:
        return node, None
    value = inner.arguments[0]
    unit = DEGREE if inner.function == "degree" else PERCENT
    if not is_negative:
        return value, unit
    return (replace(value, value=-value.value) if isinstance(value, Number) else Apply("neg", (value,))), unit
