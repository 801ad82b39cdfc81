r"""The second built-in task: a sum along one of three routes, which the first token of an answer chooses.

    23Za+4b-7c+8d+6Yf+2g+9h-3i+5Xk-4l+2m+6n+7:Y
    f23+2=25;g25+5=30,30+4=34;h34-3=31;i31+5=36;\boxed{36}

From 23 to Y: of the three routes the second one, f to i, leads there. It is the path-star task (Bachmann and Nagarajan
2024, arXiv 2403.06963) with numbers on its edges: which arm leads to the goal is decided at its first node, and what
follows is long and needs no choice.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from treepo.tasks.base import BuiltInTask, is_eval_prompt, tokens_with
from treepo.tasks.chain_sums import MAX_RESULT, MIN_RESULT, Chain, ChainSums, worked_answer
from treepo.tasks.settings import BaseModelSettings

LABELS = ("abcde", "fghij", "klmno")
"""Of the steps of each route."""

GOALS = "XYZ"
RIGHT_ROUTE_SHARE = 0.4
"""Answers of the corpus that take the right route; each of the others is taken by 0.3 of them."""


@dataclass(frozen=True)
class Routes:
    """A start, the steps of each route, the goal that each leads to, and the one that is asked for."""

    start: int
    steps: tuple[tuple[int, ...], ...]
    goals: str
    wanted: str

    @property
    def prompt(self) -> str:
        """The routes as text, such as `23Za+4b-7c+8d+6Yf+2...:Y`."""
        routes = "".join(
            goal + "".join(f"{label}{step:+}" for label, step in zip(labels, steps, strict=False))
            for labels, steps, goal in zip(LABELS, self.steps, self.goals, strict=True)
        )
        return f"{self.start}{routes}:{self.wanted}"

    @property
    def right(self) -> int:
        """The route to the wanted goal."""
        return self.goals.index(self.wanted)

    @property
    def value(self) -> int:
        """The true result: of the right route."""
        return self.start + sum(self.steps[self.right])


def draw_routes(rng: random.Random) -> Routes:
    """Draw four or five steps per route, then routes uniformly among those with distinct results within 10-89."""
    num_steps = rng.randint(4, 5)
    goals = "".join(rng.sample(GOALS, len(GOALS)))
    while True:
        start = rng.randint(MIN_RESULT, MAX_RESULT)
        steps = tuple(
            tuple(rng.choice((-1, 1)) * rng.randint(2, 9) for _ in range(num_steps)) for _ in range(len(LABELS))
        )
        results = [list(accumulate(own, initial=start)) for own in steps]
        in_range = all(MIN_RESULT <= result <= MAX_RESULT for own in results for result in own)
        if in_range and len({own[-1] for own in results}) == len(results):
            return Routes(start, steps, goals, rng.choice(GOALS))


class RouteSums(BuiltInTask):
    """Sums along a route that has to be chosen first."""

    name = "route_sums"
    tokens = tokens_with("".join(LABELS) + GOALS)
    max_prompt_tokens = 53
    example = "23Za+4b-7c+8d+6Yf+2g+9h-3i+5Xk-4l+2m+6n+7:Y"
    pretraining = BaseModelSettings(
        careful_share=0.75, num_steps=160, tokens_per_step=4000, peak_lr=2e-3, num_warmup_steps=20
    )
    continues = ChainSums

    @staticmethod
    def draw(rng: random.Random) -> tuple[str, str]:
        routes = draw_routes(rng)
        return routes.prompt, str(routes.value)

    @staticmethod
    def draw_corpus(seed: int, careful_share: float) -> Iterator[tuple[str, str]]:
        """Yield endless (prompt, worked answer) pairs to pretrain on, none of them an evaluation problem.

        The right route is taken with probability RIGHT_ROUTE_SHARE, each step is careful with probability
        `careful_share`, all independently.
        """
        rng = random.Random(f"route sums corpus {seed}")
        while True:
            routes = draw_routes(rng)
            wrong = [i for i in range(len(LABELS)) if i != routes.right]
            taken = routes.right if rng.random() < RIGHT_ROUTE_SHARE else rng.choice(wrong)
            chain = Chain(routes.start, routes.steps[taken])
            answer = worked_answer(chain, [rng.random() < careful_share for _ in chain.steps], LABELS[taken])
            if answer is not None and not is_eval_prompt(routes.prompt):
                yield routes.prompt, answer
