"""Whether two answers, as texts, are the same."""

from typing import Literal

from treepo.verify.expressions.answers import Answer
from treepo.verify.expressions.compare import Rules, same
from treepo.verify.expressions.equality import Tolerance
from treepo.verify.expressions.numeric import UndefinedError
from treepo.verify.expressions.reader import plain_text, read, spelling
from treepo.verify.expressions.text import UnreadableError

Strictness = Literal["lenient", "strict"]


def rules(units: Strictness, percent: Strictness, order: Strictness, *, rel_tol: float, abs_tol: float) -> Rules:
    """What counts as the same; see MathVerifier."""
    return Rules(units, percent, order, Tolerance(rel_tol, abs_tol))


def judge(found: str, ground_truth: str, by: Rules) -> tuple[bool | None, str]:
    """(whether the answer is the ground truth, None where that cannot be told; the text that stands for it)."""
    answer, known = _read(found), _read(ground_truth)
    is_same = _same(answer, known, by)
    if not is_same and spelling(found) == spelling(ground_truth):
        is_same = True
    return is_same, plain_text(found, answer)


def are_equal(first: str, second: str, by: Rules) -> bool:
    """Whether either answer is the other one."""
    one, other = _read(first), _read(second)
    return bool(_same(one, other, by) or _same(other, one, by)) or spelling(first) == spelling(second)


def _read(text: str) -> Answer | None:
    try:
        return read(text)
    except (UnreadableError, UndefinedError):
        return None


def _same(answer: Answer | None, known: Answer | None, by: Rules) -> bool | None:
    """Whether the answers are the same; None if one is None, or has no value that can be computed."""
    if answer is None or known is None:
        return None
    try:
        return same(answer, known, by)
    except UndefinedError:
        return None
