"""A place in a sequence of tokens, and how deep what is read there is nested."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from treepo.verify.expressions.text import MAX_DEPTH, UnreadableError
from treepo.verify.expressions.tokens import COMMAND, LETTER, NUMBER, SIGN, WORD, Token
from treepo.verify.expressions.words import CONSTANTS, FUNCTIONS, HEDGES

END = Token("end", "")


class Cursor:
    """Goes through tokens from left to right. Bare words that are no function and no constant are letters."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = [part for token in tokens for part in _letters(token) if part.text != "\\quad"]
        self.at = 0
        self.depth = 0

    def fail(self, why: str) -> NoReturn:
        """Raise UnreadableError."""
        raise UnreadableError(why)

    @contextmanager
    def deeper(self) -> Iterator[None]:
        """One level deeper; raises UnreadableError below 4 MAX_DEPTH: a bracket is some levels."""
        self.depth += 1
        if self.depth > 4 * MAX_DEPTH:
            self.fail("nested too deep")
        yield
        self.depth -= 1

    def peek(self, ahead: int = 0) -> Token:
        """The token that comes next, or END."""
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else END

    def next(self) -> Token:
        """The token that comes next, which is passed over."""
        token = self.peek()
        self.at += 1
        return token

    def last(self) -> Token:
        """The token before."""
        return self.tokens[self.at - 1]

    def take(self, *texts: str) -> bool:
        """Whether the next token is one of these signs or commands; if so it is passed over."""
        found = self.peek().kind in {SIGN, COMMAND} and self.peek().text in texts
        self.at += found
        return found

    def take_all(self, *texts: str) -> bool:
        """Whether these are the next tokens; if so they are passed over."""
        found = all(self.peek(ahead).text == text for ahead, text in enumerate(texts))
        self.at += len(texts) if found else 0
        return found

    def expect(self, text: str) -> None:
        """Pass over a token that must be there."""
        if not self.take(text):
            self.fail(f"{text} is missing")

    def raw_group(self) -> str:
        """The text of a group in braces, or of one token, without blanks."""
        if not self.take("{"):
            token = self.next()
            if token.kind not in {NUMBER, LETTER, WORD} and token.text not in {
                "*",
                "+",
                "-",
                "\\odot",
                "\\infty",
                "\\pi",
            }:
                self.fail("a group is missing")
            return token.text
        start, depth = self.at, 1
        while depth:
            token = self.next()
            if token is END:
                self.fail("a group does not end")
            depth += {"{": 1, "}": -1}.get(token.text, 0)
        return "".join(token.text for token in self.tokens[start : self.at - 1])


def _letters(token: Token) -> list[Token]:
    """The token, or the letters of a bare word that is no function, no constant and no hedge: a product."""
    if token.kind != WORD or token.text in FUNCTIONS or token.text in CONSTANTS:
        return [token]
    if (token.upright and not token.text.isupper()) or token.text.lower() in HEDGES or not token.text.isalpha():
        return [token]
    return [Token(LETTER, letter, token.spaced and not at, token.upright) for at, letter in enumerate(token.text)]
