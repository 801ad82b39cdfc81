"""Numbers with units, currencies, per cent, degrees, and times of day."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from treepo.verify.expressions.answers import Ratio, Value
from treepo.verify.expressions.equality import scaled
from treepo.verify.expressions.labels import change_of_depth, split_at
from treepo.verify.expressions.nodes import Apply, Node, Number, number
from treepo.verify.expressions.parser import parse
from treepo.verify.expressions.text import UnreadableError
from treepo.verify.expressions.tokens import LETTER, NUMBER, SIGN, WORD, Token
from treepo.verify.expressions.units import ATTACHED, DEGREE, NONE, PERCENT, Unit, combined, counted, unit_of
from treepo.verify.expressions.words import CONSTANTS, FILLERS, FUNCTIONS, HEDGES, MASS_NOUNS, NOTES, SCALES

_CURRENCIES = {"\\$": "dollar", "\\euro": "euro", "\\pounds": "pound_sterling", "\\yen": "yen", "\\cent": "cent"}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_POWERS_BEHIND = {"squared": 2, "cubed": 3}
MAX_NOUNS = 4
"""Words for what is counted."""

_LETTER_UNITS = set("mgsALNJWCVFThdlK")
"""Letters that may be units where a blank goes before them."""


def read_value(tokens: Sequence[Token]) -> Value:
    """A number or an expression, with its unit; raises UnreadableError."""
    if currency := _leading_currency(tokens):
        sign, unit, rest = currency
        inner = read_value(rest)
        if inner.unit is not None and inner.unit != unit:
            raise UnreadableError("two units")
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
    unit = unit_of(_CURRENCIES[head[0].text]) if head and head[0].text in _CURRENCIES else None
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
    if before.text in {"+", "-", "/", "^", "_", "(", "{", "\\frac", "\\sqrt"} or before.text in _CURRENCIES:
        return False
    if token.text in _CURRENCIES or _is_unit_fraction(tokens[at:]):
        return True
    if token.kind == WORD:
        if token.text in FUNCTIONS or token.text in CONSTANTS:
            # The word min is a unit where it ends the answer.
            return token.text == "min" and at == len(tokens) - 1
        if token.upright or token.text in HEDGES:
            return True
        is_attached = token.text in ATTACHED or (len(token.text) > 3 and unit_of(token.text) is not None)
        return (token.spaced and before.kind != LETTER) or (is_attached and before.kind == NUMBER)
    if token.kind != LETTER or before.kind == LETTER:
        return False
    if token.text == "\\mu" and at + 1 < len(tokens):
        return tokens[at + 1].upright and unit_of("\\mu" + tokens[at + 1].text) is not None
    if token.text in {"C", "F"} and at == len(tokens) - 1 and "\\circ" in {t.text for t in tokens[max(0, at - 2) : at]}:
        return True
    is_plain = before.kind == NUMBER or before.text in {"}", "\\circ"}
    if token.upright:
        return unit_of(token.text) is not None and is_plain
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


def read_unit(tokens: Sequence[Token]) -> tuple[Unit, str]:
    """The unit that the tokens are, and words behind it; raises UnreadableError for hedges and anything else."""
    if tokens and tokens[0].text == "\\frac":
        # \\frac{m}{s} is m/s.
        tokens = [Token(SIGN, "/") if t.text == "}" and tokens[at + 1 :] else t for at, t in enumerate(tokens[1:], 1)]
        tokens = [token for token in tokens if token.text not in {"{", "}"}]
    unit, note, nouns = NONE, [], []
    power, pending, at = 1, 1, 0
    while at < len(tokens):
        token = tokens[at]
        at += 1
        word = token.text.lower()
        if token.text in {"/", "per"} or word == "per":
            unit, nouns = _with_nouns(unit, nouns, power)
            power = -1
        elif token.text in {"*", "-", "\\quad", "."} or (word in FILLERS and word != "in"):
            continue
        elif word == "of":
            _check_plain_words(tokens[at:])
            break
        elif word in _POWERS:
            pending = _POWERS[word]
        elif token.kind in {WORD, LETTER} or token.text in _CURRENCIES:
            name = _CURRENCIES.get(token.text, token.text)
            if name == "\\mu" and at < len(tokens):
                name, at = name + tokens[at].text, at + 1
            if word in HEDGES:
                raise UnreadableError("a word that changes what a number says")
            if word == "in" and at < len(tokens) and tokens[at].text in {"total", "all"}:
                continue
            found = unit_of(name)
            if found is None and token.kind == LETTER:
                raise UnreadableError("a letter that is no unit")
            exponent, at = _exponent(tokens, at)
            if found is None and unit.dimension and power > 0:
                if word not in NOTES:
                    raise UnreadableError("a word behind a unit")
                note.append(word)
            elif found is None:
                nouns.append(word)
            else:
                unit = combined(unit, found, power * pending * exponent)
            pending = 1
        else:
            raise UnreadableError("no unit")
    unit, _ = _with_nouns(unit, nouns, power)
    names = [name for name, _ in unit.dimension]
    if "degree" in names and {"degree_C", "degree_F"} & set(names):
        # Degrees Celsius are one unit.
        unit = Unit(tuple(pair for pair in unit.dimension if pair[0] != "degree"), unit.factor)
    return unit, " ".join(note)


def _with_nouns(unit: Unit, nouns: list[str], power: int) -> tuple[Unit, list[str]]:
    """The unit times the last noun: 5 red apples are apples; raises UnreadableError for what is no noun of several."""
    if not nouns:
        return unit, []
    is_plural = (nouns[-1].endswith("s") and not nouns[-1].endswith(("ss", "us"))) or nouns[-1] in MASS_NOUNS
    if len(nouns) > MAX_NOUNS or (power > 0 and not is_plural):
        raise UnreadableError("no name of things that are counted")
    return combined(unit, counted(nouns[-1]), power), []


def _check_plain_words(tokens: Sequence[Token]) -> None:
    if any(token.kind not in {WORD, LETTER} or token.text.lower() in HEDGES for token in tokens):
        raise UnreadableError("no plain words")


def _exponent(tokens: Sequence[Token], at: int) -> tuple[int, int]:
    """The power behind a unit, and where the tokens go on."""
    texts = [token.text for token in tokens[at : at + 5]]
    if texts[:1] and texts[0].lower() in _POWERS_BEHIND:
        return _POWERS_BEHIND[texts[0].lower()], at + 1
    if texts[:1] == ["^"]:
        plain = [text for text in texts[1:] if text not in {"{", "}"}]
        is_negative = plain[:1] == ["-"]
        digits = plain[is_negative] if len(plain) > is_negative else ""
        if digits in {"1", "2", "3", "4"}:
            has_braces = texts[1] == "{"
            length = 2 + is_negative + 2 * has_braces
            return (-1 if is_negative else 1) * int(digits), at + length
        raise UnreadableError("the power of a unit")
    return 1, at


def read_ratio(tokens: Sequence[Token]) -> Ratio | None:
    """Numbers with colons between them, or a time of day; None for anything else."""
    half = ""
    words = [token.text.lower() for token in tokens if token.kind == WORD]
    body = list(tokens)
    if words and words[-1] in {"am", "pm", "oclock"} and body[-1].kind == WORD:
        half = words[-1].replace("oclock", "")
        body.pop()
    parts = split_at(body, ":")
    if len(parts) == 1:
        return _spelled_time(tokens, body, half)
    if any(not part for part in parts):
        raise UnreadableError("a colon without a number")
    nodes = tuple(parse(part) for part in parts)
    digits = [part[0].text for part in parts if len(part) == 1 and part[0].kind == NUMBER and part[0].text.isdecimal()]
    clock = _clock(digits) if len(digits) == len(parts) <= 3 else None
    if half and clock is None:
        raise UnreadableError("no time of day")
    return Ratio(nodes, clock, half)


def _spelled_time(tokens: Sequence[Token], body: Sequence[Token], half: str) -> Ratio | None:
    if len(tokens) == 1 and tokens[0].text.lower() in {"noon", "midnight"}:
        return Ratio((), (12, 0, 0), "pm" if tokens[0].text.lower() == "noon" else "am", is_spelled=True)
    if len(body) == len(tokens) or len(body) != 1 or body[0].kind != NUMBER or not body[0].text.isdecimal():
        return None
    return Ratio((number(body[0].text),), (int(body[0].text[:4]), 0, 0), half, is_spelled=True)


def _clock(digits: Sequence[str]) -> tuple[int, int, int] | None:
    if any(len(part) != 2 for part in digits[1:]) or len(digits[0]) > 2:
        return None
    hours, minutes, seconds = (*map(int, digits), 0)[:3]
    return (hours, minutes, seconds) if hours <= 24 and minutes < 60 and seconds < 60 else None
