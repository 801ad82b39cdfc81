"""Mathematical answers: read whole into typed answers, and compared by what they mean.

text, characters -> commands, tokens -> parser (cursor, literals) -> reader (lists, relations, sets, quantities, times,
phrases) -> compare (equality, numeric).
"""

from treepo.verify.expressions.answers import Answer
from treepo.verify.expressions.compare import Rules, same
from treepo.verify.expressions.equality import Tolerance
from treepo.verify.expressions.numeric import UndefinedError
from treepo.verify.expressions.reader import plain_text, read, spelling
from treepo.verify.expressions.text import UnreadableError

__all__ = ["Rules", "Tolerance", "are_same", "plain_text", "read_answer", "spelling"]


def read_answer(text: str) -> Answer | None:
    """The answer that the whole text is; None if it cannot be read."""
    try:
        return read(text)
    except (UnreadableError, UndefinedError):
        return None


def are_same(answer: Answer | None, known: Answer | None, rules: Rules) -> bool | None:
    """Whether the answers are the same; None if one is None, or has no value that can be computed."""
    if answer is None or known is None:
        return None
    try:
        return same(answer, known, rules)
    except UndefinedError:
        return None
