"""Words that are an answer or go before one, and digits with a base."""

from collections.abc import Sequence
from fractions import Fraction

from treepo.verify.expressions.answers import Answer, Based, Intervals, Text, Value
from treepo.verify.expressions.nodes import Number
from treepo.verify.expressions.sets import ALL
from treepo.verify.expressions.text import UnreadableError
from treepo.verify.expressions.tokens import LETTER, NUMBER, SIGN, WORD, Token
from treepo.verify.expressions.words import (
    ALL_REAL,
    CONSTANTS,
    EMPTY,
    FUNCTIONS,
    NUMBER_WORDS,
    PREFIX_WORDS,
    SAME_TEXT,
)


def without_prefix(tokens: Sequence[Token]) -> Sequence[Token]:
    """The tokens without "the answer is", "there are", or "option" before them."""
    words = []
    for at, token in enumerate(tokens):
        if token.kind == WORD and len(words) < 6:
            words.append(token.text.lower())
        elif token.text not in {":", "=", ",", "\\therefore"}:
            has_key = "answer" in words or words[:2] in (["there", "are"], ["there", "is"])
            is_label = words and words[-1] in {"option", "choice"} and _is_letter_alone(tokens[at:])
            is_prefix = (has_key or is_label) and set(words) <= PREFIX_WORDS
            return tokens[at:] if is_prefix or (at and not words and tokens[0].text == "\\therefore") else tokens
    return tokens


def _is_letter_alone(tokens: Sequence[Token]) -> bool:
    plain = [token for token in tokens if token.text not in {"(", ")", ".", "{", "}"}]
    return len(plain) == 1 and plain[0].kind == LETTER


def choice_of(tokens: Sequence[Token]) -> tuple[str, Sequence[Token]] | None:
    """The letter of an option and what stands behind it: (B) 12; None for anything else."""
    if len(tokens) < 4 or tokens[0].text != "(" or tokens[2].text != ")":
        return None
    letter, behind = tokens[1], tokens[3]
    is_label = letter.kind == LETTER and letter.text in "ABCDEFGH" and (behind.spaced or letter.upright)
    begins = behind.kind in {NUMBER, WORD} or behind.text in {"\\frac", "\\sqrt", "\\$", "\\quad"}
    return (letter.text, tokens[3:]) if is_label and begins else None


def behind_all_real(tokens: Sequence[Token]) -> Sequence[Token] | None:
    """What stands behind "all real numbers except"; None for anything else."""
    words = []
    for at, token in enumerate(tokens):
        if token.kind == WORD:
            words.append(token.text.lower())
        else:
            text = " ".join(words).removesuffix(" for")
            return tokens[at:] if text.removesuffix(" except") in ALL_REAL and text.endswith(" except") else None
    return None


def text_of(tokens: Sequence[Token], only_known: bool = False) -> Answer | None:
    """Words that are an answer of their own; None for anything else. only_known: only texts with a meaning."""
    is_text = all(t.kind in {WORD, LETTER} or (t.kind == SIGN and t.text in "-'.,()\"?!&") for t in tokens)
    words = [token for token in tokens if token.kind == WORD]
    if [token.text for token in tokens] == ["N", "O"]:
        return Text("no")
    if not is_text or not any(token.text not in FUNCTIONS and token.text not in CONSTANTS for token in words):
        return None
    spaced = "".join((" " if token.spaced else "") + token.text for token in tokens)
    plain = " ".join(spaced.lower().replace(".", "").strip(" ,?!\"'").split())
    if plain in EMPTY:
        return Intervals(())
    if plain in ALL_REAL:
        return Intervals(ALL)
    if plain in SAME_TEXT:
        return Text(SAME_TEXT[plain])
    if only_known or plain in {"noon", "midnight"}:
        return None
    if plain in NUMBER_WORDS:
        return Value(Number(Fraction(NUMBER_WORDS[plain])))
    return Text(plain)


def based_of(tokens: Sequence[Token]) -> Based | None:
    """Digits with a base below them."""
    texts = [token.text for token in tokens if token.text not in {"{", "}"}]
    if len(texts) >= 3 and texts[-1].lower() in NUMBER_WORDS:
        texts[-1] = str(NUMBER_WORDS[texts[-1].lower()])
    if len(texts) < 3 or texts[-2] != "_" or not texts[-1].isdecimal() or len(texts[-1]) > 2:
        return None
    digits, base = "".join(texts[:-2]).strip("()"), int(texts[-1])
    is_number = digits[:1].isdecimal() or base > 10
    if not (2 <= base <= 36 and digits.isalnum() and digits.isascii() and is_number):
        return None
    if any(int(digit, 36) >= base for digit in digits):
        raise UnreadableError("a digit that the base does not have")
    return Based(digits.upper().lstrip("0") or "0", base)
