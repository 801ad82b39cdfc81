"""Which answers to a problem are one answer, and so share a vote."""

from collections import Counter
from collections.abc import Sequence

from treepo.data.problem import MAX_EXTRACTED_LEN, Task


def vote_classes(task: Task, answers: Sequence[Sequence[str | None]]) -> list[list[str | None]]:
    """Per problem and answer, the answer that stands for all that the task judges equal to it; None without an answer.

    answers: the extracted answers to each problem. Distinct texts are taken in the order of how often they occur, then
    of the alphabet, and each joins the first class whose first member equals it, so that the order of the answers does
    not matter, not even where equality within a tolerance is not transitive. Each round compares the next first members
    of all problems in one batch. Answers that were cut to MAX_EXTRACTED_LEN are equal only as texts.
    """
    classes: list[dict[str, str]] = [{} for _ in answers]
    waiting = [_distinct(own) for own in answers]
    while any(waiting):
        pairs = [(own[0], other) for own in waiting for other in own[1:] if not _is_cut(own[0]) and not _is_cut(other)]
        equal = {pair for pair, is_equal in zip(pairs, task.are_equal(pairs), strict=True) if is_equal}
        for found, own in zip(classes, waiting, strict=True):
            found |= {text: own[0] for text in own if text == own[0] or (own[0], text) in equal}
        waiting = [[text for text in own if text not in found] for found, own in zip(classes, waiting, strict=True)]
    return [
        [None if text is None else found[text] for text in own] for found, own in zip(classes, answers, strict=True)
    ]


def _distinct(answers: Sequence[str | None]) -> list[str]:
    counts = Counter(text for text in answers if text is not None)
    return sorted(counts, key=lambda text: (-counts[text], text))


def _is_cut(text: str) -> bool:
    return len(text) >= MAX_EXTRACTED_LEN
