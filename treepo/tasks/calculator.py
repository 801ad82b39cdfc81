r"""Sums with a tool: the model may call a calculator, or guess a result, of which it knows the tens.

    34+58-47:    34+58= -> 92;    92-47= -> 45;    \boxed{45}
    34+58-47:    34+58=97;97-47= -> 50;    \boxed{50}

A call is an equation without a result, at which the turn ends; the calculator answers the result.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from treepo.envs.base import CopyFork, Turn
from treepo.tasks.base import BOX, BuiltInTask, is_eval_prompt, tokens_with
from treepo.tasks.chain_sums import ChainSums
from treepo.tasks.settings import BaseModelSettings

if TYPE_CHECKING:
    from treepo.data.problem import Problem

MIN_RESULT, MAX_RESULT = 10, 99
MIN_STEPS, MAX_STEPS = 3, 5

CALL = re.compile(r"(\d{1,9})([+-])(\d{1,9})=\Z")


class Calculator(CopyFork):
    r"""One conversation with a calculator. It ends with a turn that is no call; the reward is 1 if that ends in
    `\boxed{true value}`."""

    ground_truth: str

    def reset(self, problem: Problem) -> None:
        self.ground_truth = problem.ground_truth

    def step(self, assistant_text: str) -> Turn:
        if call := CALL.search(assistant_text):
            first, sign, second = call.groups()
            return Turn(f"{int(first) + int(sign + second)};")
        return Turn(reward=float(assistant_text.endswith(f"{BOX}{self.ground_truth}}}")), done=True)


def draw_sum(rng: random.Random) -> tuple[int, tuple[int, ...]]:
    """Draw (a start, what is added at each step), with all results of two digits."""
    num_steps = rng.randint(MIN_STEPS, MAX_STEPS)
    while True:
        start = rng.randint(MIN_RESULT, MAX_RESULT)
        steps = tuple(rng.choice((-1, 1)) * rng.randint(MIN_RESULT, MAX_RESULT) for _ in range(num_steps))
        if all(MIN_RESULT <= result <= MAX_RESULT for result in accumulate(steps, initial=start)):
            return start, steps


def written(start: int, steps: tuple[int, ...]) -> str:
    """The prompt of a sum."""
    return f"{start}{''.join(f'{step:+}' for step in steps)}:"


def converse(start: int, steps: tuple[int, ...], rng: random.Random, call_share: float) -> list[str] | None:
    """What is written in turns, the model first, where each step is a call with probability `call_share`, and its
    result guessed but for the tens otherwise; None if a result has not two digits."""
    texts, own, value = [], "", start
    for step in steps:
        own += f"{value}{step:+}="
        value += step
        if not MIN_RESULT <= value <= MAX_RESULT:
            return None
        if rng.random() < call_share:
            texts += [own, f"{value};"]
            own = ""
        else:
            value = value // 10 * 10 + rng.randrange(10)
            own += f"{value};"
    return [*texts, f"{own}{BOX}{value}}}"]


class CalculatorSums(BuiltInTask):
    """Sums of numbers of two digits, with a calculator."""

    name = "calculator"
    tokens = tokens_with("")
    max_prompt_tokens = 19
    example = "34+58-47+16:"
    pretraining = BaseModelSettings(careful_share=0.45, num_steps=120, peak_lr=1.5e-3, num_warmup_steps=15)
    continues = ChainSums

    @staticmethod
    def draw(rng: random.Random) -> tuple[str, str]:
        start, steps = draw_sum(rng)
        return written(start, steps), str(start + sum(steps))

    @staticmethod
    def draw_corpus(seed: int, careful_share: float) -> Iterator[tuple[str, ...]]:
        """Yield endless conversations, none on an evaluation problem; each step is a call with probability
        `careful_share`. Those whose results leave two digits are dropped."""
        rng = random.Random(f"calculator corpus {seed}")
        while True:
            start, steps = draw_sum(rng)
            texts = converse(start, steps, rng, careful_share)
            if texts is not None and not is_eval_prompt(written(start, steps)):
                yield (written(start, steps), *texts)
