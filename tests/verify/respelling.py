"""Other spellings of an answer, which stay right, and other answers that look like it, which are wrong."""

import random
import re
from collections.abc import Callable, Iterator

WORDS = re.compile(r"\\(?:text|textbf|mathrm|mbox|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z]{2,}")
"""Commands, texts and words: neither numbers nor single letters are changed in them."""

NUMBER = r"-?\d+(?:\.\d+)?"
RELATION = re.compile(r"=|<|>|\\le|\\ge|\\in\b|\\ne|\\approx|:|\\mid")


def respelled(answer: str) -> Iterator[tuple[str, str]]:
    """Name and result of every rule that applies to an answer in LaTeX."""
    for name, rule in RULES.items():
        result = rule(answer)
        if result is not None and result != answer:
            yield name, result


def mutated(answer: str, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Name and result of every change that makes an answer in LaTeX another one."""
    rng = random.Random(f"{seed} {answer}")
    for name, change in CHANGES.items():
        result = change(answer, rng)
        if result is not None and result != answer:
            yield name, result


def _slashes(answer: str) -> str | None:
    r"""\frac{3}{4} as (3/4), or as 3/4 where it is the whole answer; none behind a digit: a mixed number."""
    if found := re.fullmatch(r"(-?)\\frac\{(\d+)\}\{(\d+)\}", answer):
        return f"{found[1]}{found[2]}/{found[3]}"
    return re.sub(r"(?<![\d}])(?<![\d}] )\\frac\{(\d+)\}\{(\d+)\}", r"(\1/\2)", answer)


def _stacked(answer: str) -> str | None:
    """3/4 as a fraction."""
    return re.sub(r"^(-?)(\d+)/(\d+)$", r"\1\\frac{\2}{\3}", answer)


def _short_fractions(answer: str) -> str:
    r"""\frac{3}{4} as \frac34."""
    return re.sub(r"\\frac\{(\d)\}\{(\d)\}(?!\d)", r"\\frac\1\2", answer)


def _with_left(answer: str) -> str | None:
    """Brackets that grow; not beside those that do already."""
    if re.search(r"\\left|\\right|\\[bB]ig|\\begin|\\[lr](?:floor|ceil|vert)", answer):
        return None
    return re.sub(r"(\\?[)\]}])", _grow_right, re.sub(r"(?<!\\)([(\[])|(\\\{)", r"\\left\1\2", answer))


def _grow_right(found: re.Match[str]) -> str:
    # A brace without a backslash only groups.
    return found[1] if found[1] == "}" or found[1] in (r"\)", r"\]") else rf"\right{found[1]}"


def _without_left(answer: str) -> str:
    return re.sub(r"\\(?:left|right)(?![a-z.])\s*", "", answer)


def _tight(answer: str) -> str:
    """No spaces beside signs."""
    return re.sub(r"\s*(?<![\\\d])([-+=,<>()/])\s*", r"\1", answer) if "\\\\" not in answer else answer


def _wide(answer: str) -> str | None:
    """Spaces beside signs that stand between two operands."""
    if re.search(r"\\text|\\mbox|\\begin|[A-Za-z]{3,}-|\d\.?e[-+]?\d", answer):
        return None
    return re.sub(r"(?<=[\w)}])\s*([-+=])\s*(?=[\w(\\])", r" \1 ", answer)


def _thousands(separator: str) -> Callable[[str], str | None]:
    """A whole number from 1000 with a separator."""

    def separate(answer: str) -> str | None:
        return f"{int(answer):,}".replace(",", separator) if re.fullmatch(r"-?[1-9]\d{3,}", answer) else None

    return separate


def _scientific(answer: str) -> str | None:
    """4.5e33 as a product."""
    return re.sub(r"^(-?[\d.]+)e([+-]?)0*(\d+)$", lambda m: f"{m[1]} \\times 10^{{{m[2].strip('+')}{m[3]}}}", answer)


def _around_number(before: str, after: str) -> Callable[[str], str | None]:
    """Something around an answer that is a plain number."""

    def surround(answer: str) -> str | None:
        return f"{before}{answer}{after}" if re.fullmatch(NUMBER, answer) else None

    return surround


def _named(answer: str) -> str | None:
    """A name in front of a single value."""
    is_value = not RELATION.search(answer) and not re.search(r"[,;a-z]|\\pm|\\text|\\cup", answer.replace("frac", ""))
    return f"x = {answer}" if is_value else None


def _as_text(answer: str) -> str | None:
    """A plain word in a text."""
    return rf"\text{{{answer}}}" if re.fullmatch(r"[A-Z][a-z]{2,}", answer) else None


def _as_word(answer: str) -> str | None:
    """A text as a plain word."""
    found = re.fullmatch(r"\\(?:text|mbox)\{\s*(\w+)\s*\}", answer)
    return found[1] if found else None


RULES: dict[str, Callable[[str], str | None]] = {
    "dfrac": lambda answer: answer.replace(r"\frac", r"\dfrac"),
    "tfrac": lambda answer: answer.replace(r"\frac", r"\tfrac"),
    "a/b": _slashes,
    "frac": _stacked,
    "short frac": _short_fractions,
    "left, right": _with_left,
    "no left, right": _without_left,
    "no spaces": _tight,
    "spaces": _wide,
    "spaces around": lambda answer: f" {answer} ",
    "thin spaces": lambda answer: rf"\,{answer}\,",
    "full stop": lambda answer: None if answer.endswith(".") else f"{answer}.",
    "dollar signs": lambda answer: None if "$" in answer else f"${answer}$",
    "displaystyle": lambda answer: rf"\displaystyle {answer}",
    "thousands": _thousands(","),
    "thousands in braces": _thousands("{,}"),
    "thousands with spaces": _thousands(r"\,"),
    "no thousands": lambda answer: re.sub(r"^(-?\d{1,3})((?:,\\?!?\d{3})+)$", _joined, answer),
    "decimals": lambda answer: f"{answer}.0" if re.fullmatch(r"-?\d+", answer) else None,
    "times ten": _scientific,
    "unit": _around_number("", r"\text{ units}"),
    "mathrm unit": _around_number("", r"\mathrm{~cm}"),
    "money": _around_number(r"\$", ""),
    "name": _named,
    "text": _as_text,
    "word": _as_word,
}
"""None where a rule does not apply."""


def _joined(found: re.Match[str]) -> str:
    return found[1] + re.sub(r"\D", "", found[2])


def _number(answer: str, rng: random.Random) -> str | None:
    """One whole number grows by one to three; the last digit of a decimal, too."""
    # Not those in commands and texts; a zero may be a factor, and a power of one is one.
    open_to_change = WORDS.sub(lambda m: " " * len(m[0]), answer)
    places = [m for m in re.finditer(r"\d+", open_to_change) if m[0] not in ("0", "00")]
    if not places or re.search(r"(?<!\d)[01]\s*\^|(?<!\d)0\s*[\\(]", answer):
        return None
    place = rng.choice(places)
    grown = str(int(place[0]) + rng.randint(1, 3)).zfill(len(place[0]))
    return answer[: place.start()] + grown + answer[place.end() :]


def _sign(answer: str, _: random.Random) -> str | None:
    """The answer with the other sign, where it is one value."""
    if RELATION.search(answer) or re.search(r",|;|\\pm|\\cup|\\infty|\\text|\\begin|[A-Za-z]{3,}$", answer):
        return None
    if re.fullmatch(r"[\W0]*|[A-Za-z]+", answer) or (answer[0] in "[\\{" and answer[-1] in "])}" and "\\{" in answer):
        return None
    return answer[1:] if re.fullmatch(rf"{NUMBER}|-\\frac\S+", answer) and answer[0] == "-" else f"-({answer})"


def _exponent(answer: str, _: random.Random) -> str | None:
    """An exponent that grows by one."""
    if re.search(r"(?<!\d)[01]\s*\^", answer):
        return None
    found = re.search(r"\^\s*(?:\{\s*(\d+)\s*\}|(\d))", answer)
    if not found:
        return None
    return answer[: found.start()] + f"^{{{int(found[1] or found[2]) + 1}}}" + answer[found.end() :]


def _letter(answer: str, _: random.Random) -> str | None:
    """A letter that becomes another, where it is no name of a result."""
    if RELATION.search(answer):
        return None
    open_to_change = WORDS.sub(lambda m: " " * len(m[0]), answer)
    found = re.search(r"(?<![A-Za-z_])[a-df-hj-zA-DF-HJ-Z](?![A-Za-z_(])", open_to_change)
    new = next(letter for letter in "wqvujz" if letter not in answer)
    # A lone letter may be a choice; another one is another choice.
    return answer[: found.start()] + new + answer[found.end() :] if found else None


CHANGES: dict[str, Callable[[str, random.Random], str | None]] = {
    "number": _number,
    "sign": _sign,
    "exponent": _exponent,
    "letter": _letter,
}
"""None where a change does not apply."""
