r"""Growing a tree, slowly, on plain lists of tokens: the paper's section 2.2 as the specification words it.

There are no nodes and no seeds here. `grow` is told what each segment decodes to and what chance decides, and checks
that chance only ever decides what it may.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import floor
from typing import Literal, Protocol

import numpy as np

FinishedPath = tuple[list[int], str]
"""A trajectory's response and why it ended."""


@dataclass(frozen=True)
class Settings:
    """w, d, l, b, the longest and the shortest response, the token budget, the stop rules, the prompt and the blocks of
    one tree."""

    w: int
    d: int
    l: int  # noqa: E741
    b: int
    longest: int | None = None
    shortest: int = 1
    budget: int | None = None
    fewest: int = 1
    answer: Literal["answer_and_eos", "answer", "never"] = "answer_and_eos"
    repetition: Literal["first", "last", "never"] = "never"
    repeated_len: int = 32
    repeated_count: int = 8
    text: Callable[[Sequence[int]], str] = field(default=lambda ids: "")
    prompt_len: int = 1
    align: int = 1
    num_first: int = 2

    @property
    def limit(self) -> int:
        """Most tokens in a response."""
        return self.d * self.l if self.longest is None else self.longest

    @property
    def boundaries(self) -> list[int]:
        """Response tokens at which a segment begins, in order.

        A tree none of whose paths ends has k paths after the prompt and k b^i after the i-th boundary, until they are
        w: the last boundary at which it forks, or the first one, is where a block of `align` tokens, counted from
        the prompt's first, has just begun. The first segment is as much longer as that takes, if that leaves a second.
        """
        last = 1
        while self.b > 1 and self.num_first * self.b**last < self.w:
            last += 1
        for fork in range(last, 0, -1):
            first = self.l
            while (self.prompt_len + first + (fork - 1) * self.l) % self.align != 1 % self.align:
                first += 1
            if first + (fork - 1) * self.l < self.limit:
                return [0, *range(first, self.limit, self.l)]
        return [0, *range(self.l, self.limit, self.l)]

    def most_new(self, length: int) -> int:
        """Most tokens of a segment that begins after `length` response tokens."""
        first = self.boundaries[1:2] or [self.limit]
        return first[0] if length == 0 else min(self.l, self.limit - length)

    def num_segments(self, length: int) -> int:
        """Segments that have begun within `length` response tokens."""
        return sum(boundary < length for boundary in self.boundaries)

    def width(self, finished: list[FinishedPath], expected_len: float) -> int:
        """Trajectories that a tree may have when the next ones will have `expected_len` tokens."""
        if self.budget is None:
            return self.w
        spent = sum(len(response) for response, _ in finished)
        bought = len(finished) + floor((self.budget - spent) / expected_len)
        return max(self.fewest, min(self.w, bought))


class Chance(Protocol):
    """What is random."""

    def initial_fork(self, most: int) -> int:
        """Children of the root."""
        ...

    def shares(self, total: int, num_active: int) -> list[int]:
        """Children of each active path."""
        ...

    def cuts(self, finished: list[FinishedPath], boundaries: list[int]) -> list[tuple[int, int]]:
        """(which finished trajectory, how many of its tokens to keep), in the order of use."""
        ...


def is_escaped(text: str, i: int) -> bool:
    """Whether an odd number of backslashes stands before position `i`."""
    before = text[:i]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def has_closed_box(text: str) -> bool:
    r"""Whether the last \boxed{ finds its closing brace, counting every brace after it that is not escaped."""
    opening = "\\boxed{"
    for start in reversed(range(len(text))):
        if not text.startswith(opening, start) or is_escaped(text, start):
            continue
        depth = 1
        for i in range(start + len(opening), len(text)):
            if text[i] in "{}" and not is_escaped(text, i):
                depth += 1 if text[i] == "{" else -1
            if depth == 0:
                return True
        return False
    return False


def has_repetition(text: str, length: int, count: int) -> bool:
    """Whether a substring of `length` characters is seen `count` times, overlaps included."""
    starts = range(len(text) - length + 1)
    return any(sum(text.startswith(text[i : i + length], j) for j in starts) >= count for i in starts)


def why_ended(s: Settings, response: list[int], segment: list[int], eos: bool) -> str | None:
    """The first reason that holds, in the order of the specification."""
    repetition = has_repetition(s.text(segment), s.repeated_len, s.repeated_count)
    box = has_closed_box(s.text(response))
    reasons = [
        ("repetition", repetition and s.repetition == "first"),
        ("answer", box and (s.answer == "answer" or (s.answer == "answer_and_eos" and eos))),
        ("eos", eos),
        ("length", s.longest is not None and len(response) >= s.longest),
        ("depth", s.num_segments(len(response)) >= s.d or len(response) >= s.limit),
        ("repetition", repetition and s.repetition == "last"),
    ]
    return next((reason for reason, holds in reasons if holds), None)


def grow(
    s: Settings, decode: Callable[[list[int], int], tuple[list[int], bool]], chance: Chance
) -> tuple[list[FinishedPath], list[tuple[int, int, int]]]:
    """The finished trajectories in the order in which they end, and per level (paths, active, finished so far)."""
    finished: list[FinishedPath] = []
    levels = []
    num_short = 0
    s = replace(s, num_first=chance.initial_fork(s.w))
    paths: list[list[int]] = [[] for _ in range(s.num_first)]
    while True:
        active, just_finished = [], 0
        for path in paths:
            segment, eos = decode(path, s.most_new(len(path)))
            response = path + segment
            reason = why_ended(s, response, segment, eos)
            if reason is None:
                active.append(response)
            elif len(response) < s.shortest and num_short < s.w:
                num_short += 1
            else:
                finished.append((response, reason))
                just_finished += 1
        levels.append((len(paths), len(active), len(finished)))
        if active:
            width = s.width(finished, sum(map(len, active)) / len(active) + s.l)
            total = max(len(active), min(max(width - len(finished), 0), s.b * (len(active) + just_finished)))
            shares = chance.shares(total, len(active))
            paths = [path for path, share in zip(active, shares, strict=True) for _ in range(share)]
        else:
            mean_len = sum(len(response) for response, _ in finished) / len(finished) if finished else s.l
            width = s.width(finished, mean_len)
            if len(finished) >= width:
                return finished, levels
            paths = []
            while len(finished) + len(paths) < width:
                for which, keep in chance.cuts(finished, s.boundaries):
                    if s.num_segments(keep) >= s.d:
                        keep = s.boundaries[s.d - 1]  # noqa: PLW2901
                    missing = width - len(finished) - len(paths)
                    paths += [finished[which][0][:keep] if keep else []] * min(s.b, missing)


class Dice:
    """Chance by its own random numbers."""

    def __init__(self, rng: np.random.Generator, low: int, high: int) -> None:
        self.rng, self.low, self.high = rng, low, high

    def initial_fork(self, most: int) -> int:
        return min(most, int(self.rng.integers(self.low, self.high, endpoint=True)))

    def shares(self, total: int, num_active: int) -> list[int]:
        shares = [total // num_active] * num_active
        for lucky in self.rng.choice(num_active, total % num_active, replace=False):
            shares[lucky] += 1
        return shares

    def cuts(self, finished: list[FinishedPath], boundaries: list[int]) -> list[tuple[int, int]]:
        usable = [i for i, (_, reason) in enumerate(finished) if reason in ("answer", "eos")]
        if not usable:
            return [(0, 0)]
        self.rng.shuffle(usable)
        return [(i, int(self.rng.choice([b for b in boundaries if b < len(finished[i][0])]))) for i in usable]


class Replay:
    """Chance and segments as another implementation had them, each checked to be one the specification allows."""

    def __init__(
        self,
        initial_fork: int,
        forks: tuple[int, int],
        shares: list[list[int]],
        cuts: list[list[tuple[int, int]]],
        segments: list[tuple[list[int], int, list[int], bool]],
        at_boundaries: bool = True,
    ) -> None:
        self.fork, self.forks, self.at_boundaries = initial_fork, forks, at_boundaries
        self.noted_shares, self.noted_cuts = deque(shares), deque(cuts)
        self.segments: dict[tuple[tuple[int, ...], int], deque] = defaultdict(deque)
        for prefix, max_new_tokens, segment, eos in segments:
            self.segments[tuple(prefix), max_new_tokens].append((segment, eos))

    def initial_fork(self, most: int) -> int:
        low, high = self.forks
        assert min(most, low) <= self.fork <= min(most, high)
        return self.fork

    def shares(self, total: int, num_active: int) -> list[int]:
        shares = self.noted_shares.popleft()
        assert sum(shares) == total
        assert len(shares) == num_active
        assert min(shares) >= 1
        assert max(shares) - min(shares) <= 1, "not even"
        return shares

    def cuts(self, finished: list[FinishedPath], boundaries: list[int]) -> list[tuple[int, int]]:
        cuts = self.noted_cuts.popleft()
        if not self.at_boundaries:
            return cuts
        usable = [i for i, (_, reason) in enumerate(finished) if reason in ("answer", "eos")]
        if not usable:
            assert [keep for _, keep in cuts] == [0]
        else:
            assert sorted(which for which, _ in cuts) == usable, "every usable trajectory once"
            for which, keep in cuts:
                assert keep in boundaries
                assert keep < len(finished[which][0])
        return cuts

    def decode(self, prefix: list[int], max_new_tokens: int) -> tuple[list[int], bool]:
        """What the other implementation got for the next request with this prefix and this bound."""
        noted = self.segments[tuple(prefix), max_new_tokens]
        assert noted, f"{prefix} was never continued by up to {max_new_tokens} tokens"
        return noted.popleft()

    def assert_used_up(self) -> None:
        """Nothing was decoded or decided beyond what the specification asks for."""
        assert not self.noted_shares
        assert not self.noted_cuts
        assert not any(self.segments.values())
