"""Units as they are written behind a number: m/s^2, square feet, red apples per day."""

from collections.abc import Sequence

from treepo.verify.expressions.text import UnreadableError
from treepo.verify.expressions.tokens import LETTER, SIGN, WORD, Token
from treepo.verify.expressions.units import NONE, Unit, combined, counted, unit_of
from treepo.verify.expressions.words import FILLERS, HEDGES, MASS_NOUNS, NOTES

CURRENCIES = {"\\$": "dollar", "\\euro": "euro", "\\pounds": "pound_sterling", "\\yen": "yen", "\\cent": "cent"}
"""Signs of currencies, and their units."""

MAX_NOUNS = 4
"""Words for what is counted."""

_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_POWERS_BEHIND = {"squared": 2, "cubed": 3}
_PLACES = {"in", "at", "on", "from", "for"}
_ARTICLES = {"the", "a", "an", "each", "this", "his", "her", "their"}
_SEPARATORS = {"*", "-", "\\quad", ".", "(", ")"}


def read_unit(tokens: Sequence[Token]) -> tuple[Unit, str]:
    """The unit that all the tokens are, and words behind it; raises UnreadableError for hedges and anything else."""
    return _Phrase(_without_fraction(tokens)).read()


def _without_fraction(tokens: Sequence[Token]) -> Sequence[Token]:
    r"""\frac{m}{s} as m/s."""
    if not tokens or tokens[0].text != "\\frac":
        return tokens
    middle = next((at for at, token in enumerate(tokens) if token.text == "}"), 0)
    plain = [*tokens[1:middle], Token(SIGN, "/"), *tokens[middle + 1 :]]
    return [token for token in plain if token.text not in {"{", "}"}]


class _Phrase:
    """Reads a unit word by word."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.unit = NONE
        self.notes: list[str] = []
        self.nouns: list[str] = []
        self.sign = 1
        """-1 behind a slash or "per"."""
        self.power = 1
        """Of the next unit: 2 behind "square"."""

    def read(self) -> tuple[Unit, str]:
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            word = token.text.lower()
            self.at += 1
            if token.text == "/" or word == "per":
                self._end_nouns()
                self.sign = -1
            elif word == "of" or self._begins_place(word):
                self._check_plain_words()
                break
            elif word in _POWERS:
                self.power = _POWERS[word]
            elif not self._is_passed_over(token, word):
                self._word(token, word)
        self._end_nouns()
        return self._result(), " ".join(self.notes)

    def _begins_place(self, word: str) -> bool:
        """Whether what follows says where: students in the class."""
        has_before = bool(self.nouns or self.unit.dimension)
        return has_before and word in _PLACES and self._next() in _ARTICLES

    def _next(self) -> str:
        return self.tokens[self.at].text.lower() if self.at < len(self.tokens) else ""

    def _is_passed_over(self, token: Token, word: str) -> bool:
        if word == "in":
            # 5 in total, but 5 in is a length.
            return self._next() in {"total", "all"}
        if word in {"more", "additional", "extra", "fewer"}:
            # 5 more apples, but 5 or more.
            return self.at == 1 and self.at < len(self.tokens) and self.tokens[self.at].kind == WORD
        return token.text in _SEPARATORS or word in FILLERS

    def _word(self, token: Token, word: str) -> None:
        if (token.kind not in {WORD, LETTER} and token.text not in CURRENCIES) or word in HEDGES:
            raise UnreadableError("no unit")
        name = CURRENCIES.get(token.text, token.text)
        if name == "\\mu" and self.at < len(self.tokens):
            name += self.tokens[self.at].text
            self.at += 1
        found = unit_of(name)
        if found is not None:
            self.unit = combined(self.unit, found, self.sign * self.power * self._exponent())
        elif token.kind == LETTER:
            raise UnreadableError("a letter that is no unit")
        elif self.unit.dimension and self.sign > 0:
            if word not in NOTES:
                raise UnreadableError("a word behind a unit")
            self.notes.append(word)
        else:
            self.nouns.append(word)
        self.power = 1

    def _exponent(self) -> int:
        """The power behind a unit, which is passed over."""
        texts = [token.text for token in self.tokens[self.at : self.at + 5]]
        if texts and texts[0].lower() in _POWERS_BEHIND:
            self.at += 1
            return _POWERS_BEHIND[texts[0].lower()]
        if texts[:1] != ["^"]:
            return 1
        has_braces = texts[1:2] == ["{"]
        is_negative = texts[1 + has_braces : 2 + has_braces] == ["-"]
        length = 2 + 2 * has_braces + is_negative
        digits = texts[1 + has_braces + is_negative] if len(texts) >= length else ""
        if digits not in {"1", "2", "3", "4"}:
            raise UnreadableError("the power of a unit")
        self.at += length
        return -int(digits) if is_negative else int(digits)

    def _end_nouns(self) -> None:
        """The unit times the last noun: 5 red apples are apples; raises UnreadableError for no noun of several."""
        if not self.nouns:
            return
        last = self.nouns[-1]
        is_plural = last.endswith("s") and not last.endswith(("ss", "us"))
        is_plural = is_plural or last in MASS_NOUNS or last.endswith(("children", "people", "men"))
        if len(self.nouns) > MAX_NOUNS or (self.sign > 0 and not is_plural):
            raise UnreadableError("no name of things that are counted")
        self.unit = combined(self.unit, counted(last), self.sign)
        self.nouns = []

    def _check_plain_words(self) -> None:
        """What stands behind "of" is passed over if it is words."""
        rest = self.tokens[self.at :]
        if any(token.kind not in {WORD, LETTER} or token.text.lower() in HEDGES for token in rest):
            raise UnreadableError("no plain words")

    def _result(self) -> Unit:
        names = {name for name, _ in self.unit.dimension}
        if "degree" in names and names & {"degree_C", "degree_F"}:
            # Degrees Celsius are one unit.
            return Unit(tuple(pair for pair in self.unit.dimension if pair[0] != "degree"), self.unit.factor)
        if not names and self.unit.factor != 1:
            # Hours per week are a unit, not a share of the week.
            return Unit((("share", 1),), self.unit.factor)
        return self.unit
