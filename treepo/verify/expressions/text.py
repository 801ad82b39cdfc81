r"""The text of an answer before it is read: Unicode as LaTeX, one kind of blank, no formatting.

Everything here takes linear time, whatever the text.
"""

import re
import unicodedata

from treepo.verify.expressions.characters import CHARACTERS, LOWERED, RAISED

MAX_ANSWER_LEN = 1000
"""Characters of an answer that is read as mathematics."""

MAX_DEPTH = 24
"""Brackets within brackets, powers of powers and so on of an answer that is read as mathematics."""


class UnreadableError(ValueError):
    """The text is no answer that can be read; it equals only the same text."""


_RAISED_RUN = re.compile(f"[{''.join(RAISED)}]+")
_LOWERED_RUN = re.compile(f"[{''.join(LOWERED)}]+")
_BLANKS = re.compile(r"\s+")
_CURRENCY = re.compile(r"(?:^|[\s({\[,=+<>-])(\$)(?=\s?\.?[0-9])")
_PRIMES = re.compile(r"\^\s?\{\s?(?:\\prime\s?){1,3}\}|\^\s?\\prime(?![A-Za-z])")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z{}])")
_EMPHASIS = re.compile(r"(\*\*\*|\*\*|\*|__|`)(.*)\1[\s.,;]*", re.DOTALL)


def normalised(text: str) -> str:
    r"""The answer in ASCII as far as possible: Unicode signs as commands, ² as ^{2}, ½ as \frac{1}{2}, no $ of LaTeX.

    Raises UnreadableError for more than MAX_ANSWER_LEN characters.
    """
    if len(text) > MAX_ANSWER_LEN:
        raise UnreadableError("too long")
    text = text.strip()
    if not text.isascii():
        text = _ascii(text)
    text = _without_emphasis(text)
    text = _PRIMES.sub(lambda match: "'" * match[0].count("p"), text.rstrip("\\ "))
    if "\\\\begin" in text:
        text = text.replace("\\\\", "\\")
    if "\\\\" in text and "\\begin" not in text:
        # Backslashes of a quoted string, each written twice; rows end in matrices only.
        text = _DOUBLED.sub(r"\\", text)
    if "$" in text:
        text = _without_emphasis(_without_dollars(text).strip())
    return _BLANKS.sub(" ", text.replace("o'clock", "oclock")).strip()


def _ascii(text: str) -> str:
    text = _RAISED_RUN.sub(lambda match: f"^{{{''.join(RAISED[c] for c in match[0])}}}", text)
    text = _LOWERED_RUN.sub(lambda match: f"_{{{''.join(LOWERED[c] for c in match[0])}}}", text)
    text = text.translate(CHARACTERS)
    return text if text.isascii() else "".join(c if c.isascii() else _ascii_character(c) for c in text)


def _ascii_character(character: str) -> str:
    """Digits of other scripts, full-width and mathematical letters, and fractions; others stay as they are."""
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    compatible = unicodedata.normalize("NFKC", character)
    plain = compatible.translate(CHARACTERS)
    if unicodedata.category(character) == "No" and plain.count("/") == 1:
        top, _, bottom = plain.partition("/")
        return f"\\frac{{{top}}}{{{bottom}}}"
    is_plain = len(compatible) == 1 and unicodedata.category(character)[0] in "LPSN"
    is_circled = 0x2460 <= ord(character) <= 0x24FF
    return plain if is_plain and plain.isascii() and not is_circled else character


def _without_emphasis(text: str) -> str:
    """Without the marks of Markdown around all of it."""
    match = _EMPHASIS.fullmatch(text) if text[:1] in "*_`" else None
    return match[2] if match else text


def _without_dollars(text: str) -> str:
    r"""Dollars before numbers as \$; those around mathematics as blanks."""
    bare = text.replace("\\$", "")
    signs = bare.count("$")
    if signs and len(_CURRENCY.findall(bare)) == signs:
        return text.replace("\\$", "$").replace("$", "\\$")
    return text.replace("\\$", "\0").replace("$", " ").replace("\0", "\\$")


def check_depth(text: str) -> None:
    """Raise UnreadableError for brackets that are nested too deep."""
    depth = 0
    for character in text:
        if character in "([{":
            depth += 1
            if depth > 2 * MAX_DEPTH:
                raise UnreadableError("nested too deep")
        elif character in ")]}":
            depth -= 1
