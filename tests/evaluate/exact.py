"""The estimates by their definitions: over all draws there are."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations, product


def pass_exactly(correct: Sequence[float], k: int) -> Fraction:
    """The mean over all k-subsets of the best in them."""
    best = [Fraction(max(drawn)) for drawn in combinations(correct, k)]
    return sum(best, Fraction()) / len(best)


def maj_exactly(correct: Sequence[float], given: Sequence[str | None], k: int) -> Fraction:
    """The mean over all k-tuples of what their vote is worth."""
    worth = [vote(drawn, correct, given) for drawn in product(range(len(correct)), repeat=k)]
    return sum(worth, Fraction()) / len(worth)


def vote(drawn: Sequence[int], correct: Sequence[float], given: Sequence[str | None]) -> Fraction:
    """What one vote is worth: the mean over the answers named most often of the mean of `correct` under that name."""
    counts = Counter(given[i] for i in drawn if given[i] is not None)
    winners = [answer for answer, count in counts.items() if count == max(counts.values())]
    values = [[Fraction(c) for c, g in zip(correct, given, strict=True) if g == winner] for winner in winners]
    return sum((sum(v) / len(v) for v in values), Fraction()) / max(len(winners), 1)
