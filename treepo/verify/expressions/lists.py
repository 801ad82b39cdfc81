"""Several answers with commas, "and" or "or" between them, put together."""

from collections.abc import Sequence

from treepo.verify.expressions.answers import Answer, Intervals, Items, Labelled, Value
from treepo.verify.expressions.labels import WORDS
from treepo.verify.expressions.numeric import UndefinedError
from treepo.verify.expressions.quantities import added
from treepo.verify.expressions.sets import intersected, united
from treepo.verify.expressions.text import UnreadableError


def assembled(answers: Sequence[Answer], signs: set[str]) -> Answer:
    """One answer from several. signs: what stands between them."""
    if len(answers) == 1:
        return answers[0]
    if all(isinstance(answer, Intervals) and answer.variable for answer in answers):
        return _intervals([answer for answer in answers if isinstance(answer, Intervals)], signs)
    if "or" not in signs and ";" not in signs and (compound := _compound(answers)) is not None:
        return compound
    labels = [answer.label if isinstance(answer, Labelled) else "" for answer in answers]
    plain = tuple(answer.answer if isinstance(answer, Labelled) else answer for answer in answers)
    named = set(labels)
    if named == {""}:
        return Items(plain)
    if len(named) == 1 or (labels[0] and named == {labels[0], ""} and not any(labels[1:])):
        return Labelled(labels[0], Items(plain))
    return Items(plain, "list", () if named == {WORDS} else tuple(labels))


def _intervals(answers: Sequence[Intervals], signs: set[str]) -> Answer:
    """x < 1 or x > 2: the union; with "and" or a comma: what is in all, if anything is."""
    names = {answer.variable for answer in answers}
    if len(names) > 1:
        return Items(tuple(answers), "list")
    pieces = answers[0].pieces
    if "or" not in signs:
        try:
            for answer in answers[1:]:
                pieces = intersected(pieces, answer.pieces)
        except UndefinedError:
            return Items(tuple(answers), "list")
        if pieces or "and" in signs:
            return Intervals(pieces, names.pop())
    return Intervals(united(tuple(piece for answer in answers for piece in answer.pieces)), names.pop())


def _compound(answers: Sequence[Answer]) -> Value | None:
    """3 dollars and 50 cents; None for answers that are no parts of one quantity."""
    whole = answers[0]
    if not isinstance(whole, Value):
        return None
    for answer in answers[1:]:
        if not isinstance(answer, Value):
            return None
        try:
            whole = added(whole, answer)
        except UnreadableError:
            return None
    return whole
