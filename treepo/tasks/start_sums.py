r"""The second built-in task: a sum from one of three starts, which the first token of an answer chooses.

    X41Y62Z27a-7b+7c+2d+3:Y
    Y62;a62-2=60,60-5=55;b55+5=60,60+2=62;c62+2=64;d64+3=67;\boxed{67}

The answer begins at the start that is asked for, and goes on as one to a chain sum: every later number follows from
that choice, and each start leads to another result.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from treepo.tasks.base import BuiltInTask, is_eval_prompt, tokens_with
from treepo.tasks.chain_sums import LABELS, MAX_RESULT, MIN_RESULT, Chain, ChainSums, worked_answer
from treepo.tasks.settings import BaseModelSettings

NAMES = "XYZ"
"""Of the starts, in the order of a prompt."""

RIGHT_START_SHARE = 0.4
"""Answers of the corpus that begin at the start that is asked for; each of the others is taken by 0.3 of them."""


@dataclass(frozen=True)
class Starts:
    """The starts, the steps that follow any of them, and which start is asked for."""

    starts: tuple[int, ...]
    steps: tuple[int, ...]
    asked: int

    @property
    def prompt(self) -> str:
        """The problem as text, such as `X41Y62Z27a-7b+7c+2d+3:Y`."""
        starts = "".join(f"{name}{start}" for name, start in zip(NAMES, self.starts, strict=True))
        steps = "".join(f"{label}{step:+}" for label, step in zip(LABELS, self.steps, strict=False))
        return f"{starts}{steps}:{NAMES[self.asked]}"

    @property
    def value(self) -> int:
        """The true result."""
        return self.chain(self.asked).value

    def chain(self, taken: int) -> Chain:
        """The chain sum from one of the starts."""
        return Chain(self.starts[taken], self.steps)


def draw_starts(rng: random.Random) -> Starts:
    """Draw four to six steps, then three different starts and steps uniformly among those that stay within 10-89."""
    num_steps = rng.randint(4, 6)
    while True:
        starts = tuple(rng.sample(range(MIN_RESULT, MAX_RESULT + 1), len(NAMES)))
        steps = tuple(rng.choice((-1, 1)) * rng.randint(2, 9) for _ in range(num_steps))
        sums = list(accumulate(steps))
        if min(starts) + min(sums) >= MIN_RESULT and max(starts) + max(sums) <= MAX_RESULT:
            return Starts(starts, steps, rng.randrange(len(NAMES)))


def answer_from(drawn: Starts, taken: int, careful: Sequence[bool]) -> str | None:
    """Work the chain sum from one of the starts, and return the answer's text; None if a result leaves 10-89."""
    worked = worked_answer(drawn.chain(taken), careful)
    return None if worked is None else f"{NAMES[taken]}{drawn.starts[taken]};{worked}"


class StartSums(BuiltInTask):
    """Chain sums from a start that has to be chosen first."""

    name = "start_sums"
    tokens = tokens_with(LABELS + NAMES)
    max_prompt_tokens = 30
    example = "X41Y62Z27a-7b+7c+2d+3:Y"
    pretraining = BaseModelSettings(careful_share=0.7, num_steps=240, num_warmup_steps=20)
    continues = ChainSums

    @staticmethod
    def draw(rng: random.Random) -> tuple[str, str]:
        drawn = draw_starts(rng)
        return drawn.prompt, str(drawn.value)

    @staticmethod
    def draw_corpus(seed: int, careful_share: float) -> Iterator[tuple[str, str]]:
        """Yield endless (prompt, worked answer) pairs to pretrain on, none of them an evaluation problem.

        The right start is taken with probability RIGHT_START_SHARE, each step is careful with probability
        `careful_share`, all independently.
        """
        rng = random.Random(f"start sums corpus {seed}")
        while True:
            drawn = draw_starts(rng)
            others = [i for i in range(len(NAMES)) if i != drawn.asked]
            taken = drawn.asked if rng.random() < RIGHT_START_SHARE else rng.choice(others)
            answer = answer_from(drawn, taken, [rng.random() < careful_share for _ in drawn.steps])
            if answer is not None and not is_eval_prompt(drawn.prompt):
                yield drawn.prompt, answer
