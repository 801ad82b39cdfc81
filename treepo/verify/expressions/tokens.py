r"""Tokens of an answer: numbers, letters, words, commands and signs, with where blanks were."""

import re
from typing import NamedTuple

from treepo.verify.expressions.commands import GREEK, IGNORED, LETTERS, PLAIN_SIGNS, SAME, SPACES, UPRIGHT
from treepo.verify.expressions.text import UnreadableError
from treepo.verify.expressions.words import CONSTANTS, FUNCTIONS, is_word

NUMBER, LETTER, WORD, COMMAND, SIGN = "number", "letter", "word", "command", "sign"


class Token(NamedTuple):
    """A piece of an answer.

    kind: NUMBER, LETTER (one letter, or a Greek one by its name), WORD, COMMAND (with its backslash) or SIGN. text: of
    a number its digits without marks of thousands. spaced: whether a blank goes before it. upright: whether it is text
    within mathematics, as in \text{cm}.
    """

    kind: str
    text: str
    spaced: bool = False
    upright: bool = False


_DIGITS = re.compile(
    r"(?P<first>[1-9][0-9]{0,2})(?P<mark>,|,\\!\s?|\{,\}(?:\\!)?|\\,|\\;|\\:|\\ |~|\\!|'|\s)"
    r"[0-9]{3}(?:(?P=mark)[0-9]{3})*(?![0-9])"
)
_BEGIN_OF_NUMBER = re.compile(r"\.?[0-9]")
_PLAIN_NUMBER = re.compile(r"[0-9]+")
_FRACTION_PART = re.compile(r"\.[0-9]+(?:\\,[0-9]+)*|\.(?![0-9.])")
_DECIMAL_COMMA = re.compile(r"[0-9]+\{,\}[0-9]+(?![0-9])|0,[0-9]{2,}[1-9](?![0-9,.]|\s?,)")
_EXPONENT = re.compile(r"[eE][-+]?[0-9]{1,9}(?![0-9A-Za-z]|\.[0-9])")
_REPEATING = re.compile(r"\(([0-9]{1,40})\)")
_ROW_SPACE = re.compile(r"\s?\[\s?-?[0-9.]{1,6}\s?(?:pt|em|ex|mm|cm|in)\s?\]")
_COLOUR = re.compile(r"\s?(?:\[[^\[\]{}]{0,20}\])?\s?\{[^{}]{0,40}\}")
_RUN = re.compile(r"[A-Za-z]+")
_COMMAND = re.compile(r"\\(?:quad|[A-Za-z]+\*?|.)", re.DOTALL)
"""\\\\quad may have the next letter behind it, where a line break was lost."""
_PLAIN_SIGN = re.compile(r"\+/-|\.\.\.|<=|>=|!=|=<|=>|->|\*\*|==|~=|:=")
_BLACKBOARD = re.compile(r"\s?\{?\s?([RZNQCPEF])\s?\}?")
_ENVIRONMENT = re.compile(r"\s?\{([A-Za-z]{1,20})\*?\}(?:\s?\{[clr| ]{1,20}\})?")
_SPACE_ARGUMENT = re.compile(r"\s?\{[^{}]{0,20}\}")
_ABBREVIATION = re.compile(
    r"[ap]\.\s?m\.?|sq\.|ft\.|in\.|hr\.|hrs\.|min\.|sec\.|lbs?\.|oz\.|yd\.|mi\.|approx\.", re.IGNORECASE
)


_ARGUMENTS = {
    **dict.fromkeys(("\\left", "\\right"), re.compile(r"\.")),
    **dict.fromkeys(("\\color", "\\textcolor", "\\colorbox", "\\tag", "\\label"), _COLOUR),
    "\\hspace": _SPACE_ARGUMENT,
    "\\\\": _ROW_SPACE,
}
"""What is passed over behind a command."""


class _Lexer:
    """One pass over the text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.spaced = False
        self.tokens: list[Token] = []
        self.upright: list[int] = []
        """Number of open braces at which each \text that is open ends."""
        self.depth = 0
        self.separating = separating_commas(text)

    def read(self) -> list[Token]:
        while self.at < len(self.text):
            character = self.text[self.at]
            if character in " ~":
                self.at, self.spaced = self.at + 1, True
            elif _BEGIN_OF_NUMBER.match(self.text, self.at):
                self._number()
            elif character.isascii() and character.isalpha():
                self._letters()
            elif character == "\\":
                self._command()
            else:
                self._sign(character)
        if self.depth:
            raise UnreadableError("braces do not match")
        return self.tokens

    def _add(self, kind: str, text: str) -> None:
        self.tokens.append(Token(kind, text, self.spaced, bool(self.upright)))
        self.spaced = False

    def _number(self) -> None:
        text, at = self.text, self.at
        digits, decimals = "", ""
        if match := _DECIMAL_COMMA.match(text, at):
            is_thousands = _DIGITS.fullmatch(match[0])
            if not is_thousands:
                digits, decimals = re.split(r"\{,\}|,", match[0], maxsplit=1)
                at = match.end()
        if not digits and (match := _DIGITS.match(text, at)) and self._is_thousands(match):
            digits, at = re.sub(r"[^0-9]", "", match[0]), match.end()
        elif not digits and (match := _PLAIN_NUMBER.match(text, at)):
            digits, at = match[0], match.end()
        if not decimals and (match := _FRACTION_PART.match(text, at)):
            decimals, at = match[0][1:].replace("\\,", ""), match.end()
            if not decimals and (repeating := _REPEATING.match(text, at)):
                self._repeating(digits, repeating)
                return
            if not decimals:
                at -= 1
        exponent = ""
        if not self.upright and (match := _EXPONENT.match(text, at)):
            exponent, at = match[0], match.end()
        self._add(NUMBER, digits + ("." + decimals if decimals else "") + exponent)
        self.at = at

    def _repeating(self, digits: str, match: re.Match[str]) -> None:
        r"""0.(3) as 0.\\overline{3}; it is no product."""
        for kind, text in ((NUMBER, digits or "0"), (SIGN, "."), (COMMAND, "\\overline"), (NUMBER, match[1])):
            self._add(kind, text)
        self.at = match.end()

    def _is_thousands(self, match: re.Match[str]) -> bool:
        """Whether the marks between the digits only group them."""
        mark, rest = match["mark"], self.text[match.end() : match.end() + 3]
        groups = re.sub(r"[^0-9]+", " ", match[0]).split()[1:]
        has_noughts = all(group[0] == "0" for group in groups)
        if mark == ",":
            return has_noughts or not (
                re.match(r",[0-9]", rest) or any(at in self.separating for at in range(match.start(), match.end()))
            )
        # 1 234 5 is no number, and 1 100/3 is a mixed one.
        return not re.match(r"\s?[0-9]", rest) and not (mark.isspace() and re.match(r"\s?/", rest))

    def _letters(self) -> None:
        if match := _ABBREVIATION.match(self.text, self.at):
            self._add(WORD, match[0].replace(".", "").replace(" ", "").lower())
            self.at = match.end()
            return
        match = _RUN.match(self.text, self.at)
        assert match
        self.at = match.end()
        run = match[0]
        if run in GREEK and not self.upright:
            self._add(LETTER, f"\\{run}")
            return
        if len(run) > 1 and (self.upright or is_word(run) or run in FUNCTIONS or run in CONSTANTS):
            self._add(WORD, run)
            return
        for name in ("arcsin", "arccos", "arctan", "sin", "cos", "tan", "log", "ln"):
            if run.startswith(name) and len(run) == len(name) + 1 and not self.upright:
                self._add(WORD, name)
                run = run[len(name) :]
                break
        for letter in run:
            self._add(LETTER, letter)

    def _command(self) -> None:
        match = _COMMAND.match(self.text, self.at)
        if match is None:
            raise UnreadableError("a backslash at the end")
        name, self.at = match[0], match.end()
        if name in _ARGUMENTS and (skipped := _ARGUMENTS[name].match(self.text, self.at)):
            self.at = skipped.end()
        if name in {"\\begin", "\\end"}:
            self._add(COMMAND, name)
            self._add(WORD, self._argument(_ENVIRONMENT))
        elif name in {"\\mathbb", "\\mathds"}:
            self._add(COMMAND, f"\\{self._argument(_BLACKBOARD)}")
        elif name in UPRIGHT:
            self._open_text()
        elif name in SPACES:
            if name in {"\\quad", "\\qquad"}:
                self._add(COMMAND, "\\quad")
            self.spaced = True
        elif name in LETTERS:
            self._add(LETTER, LETTERS[name])
        elif name not in IGNORED:
            known = SAME.get(name, name)
            self._add(COMMAND if known.startswith("\\") else SIGN, known)

    def _argument(self, pattern: re.Pattern[str]) -> str:
        """The first group of the pattern, which must come next."""
        match = pattern.match(self.text, self.at)
        if match is None:
            raise UnreadableError("an argument is missing")
        self.at = match.end()
        return match[1]

    def _open_text(self) -> None:
        while self.text[self.at : self.at + 1] == " ":
            self.at += 1
        if self.text[self.at : self.at + 1] == "*":
            self.at += 1
        if self.text[self.at : self.at + 1] != "{":
            return
        self.at += 1
        self.depth += 1
        self.upright.append(self.depth)

    def _sign(self, character: str) -> None:
        if match := _PLAIN_SIGN.match(self.text, self.at):
            sign = PLAIN_SIGNS[match[0]]
            self._add(COMMAND if sign.startswith("\\") else SIGN, sign)
            self.at = match.end()
            return
        self.at += 1
        if character == "{":
            self.depth += 1
        elif character == "}":
            self.depth -= 1
            if self.upright and self.upright[-1] == self.depth + 1:
                self.upright.pop()
                # A group of text is no brace; what follows it is apart from its last word.
                return
            if self.depth < 0:
                raise UnreadableError("braces do not match")
        self._add(SIGN, character)


def separating_commas(text: str) -> set[int]:
    """Where commas without a blank separate in brackets: in (1,234), but not in (1,234, 5) or outside of brackets."""
    separating: set[int] = set()
    levels: list[tuple[list[int], list[bool]]] = [([], [])]
    for at, character in enumerate(text):
        if character in "([" or text[at : at + 2] == "\\{":
            levels.append(([], []))
        elif (character in ")]" or text[at : at + 2] == "\\}") and len(levels) > 1:
            commas, spaced = levels.pop()
            separating |= set() if spaced else set(commas)
        elif character == ",":
            following = text[at + 1 : at + 2]
            if following.isdecimal():
                levels[-1][0].append(at)
            elif following in " \\":
                levels[-1][1].append(True)
    return separating


def tokenised(text: str) -> list[Token]:
    """The tokens of normalised text; raises UnreadableError for braces that do not match."""
    return _Lexer(text).read()
