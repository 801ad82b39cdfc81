r"""Sums with a tool: the model may call a calculator, or work a step in its head and forget the carries.

    347+582-164:    347+582= -> 929;    929-164= -> 765;    \boxed{765}
    347+582-164:    347+582=829;829-164=665;\boxed{665}

A call is an equation without a result, at which the turn ends; the calculator answers the result.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from treepo.envs.base import CopyFork, Turn
from treepo.tasks.base import BOX, BuiltInTask, is_eval_prompt, tokens_with
from treepo.tasks.settings import BaseModelSettings

if TYPE_CHECKING:
    from treepo.data.problem import Problem

MIN_RESULT, MAX_RESULT = 100, 999
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
    """Draw (a start, what is added at each step), with all results of three digits."""
    num_steps = rng.randint(MIN_STEPS, MAX_STEPS)
    while True:
        start = rng.randint(MIN_RESULT, MAX_RESULT)
        steps = tuple(rng.choice((-1, 1)) * rng.randint(MIN_RESULT, MAX_RESULT) for _ in range(num_steps))
        if all(MIN_RESULT <= start + sum(steps[: i + 1]) <= MAX_RESULT for i in range(num_steps)):
            return start, steps


def written(start: int, steps: tuple[int, ...]) -> str:
    """The prompt of a sum."""
    return f"{start}{''.join(f'{step:+}' for step in steps)}:"


def without_carry(value: int, step: int) -> int:
    """The result of a step worked digit by digit, with carries and borrows forgotten."""
    digits = zip(f"{value:03}", f"{abs(step):03}", strict=True)
    sign = 1 if step > 0 else -1
    return int("".join(str((int(a) + sign * int(b)) % 10) for a, b in digits))


def converse(start: int, steps: tuple[int, ...], is_call: list[bool]) -> list[str] | None:
    """What is written in turns, the model first, where each step is a call or worked without carries; None if a result
    has not three digits."""
    texts, own, value = [], "", start
    for step, calls in zip(steps, is_call, strict=True):
        own += f"{value}{step:+}="
        value = value + step if calls else without_carry(value, step)
        if not MIN_RESULT <= value <= MAX_RESULT:
            return None
        if calls:
            texts += [own, f"{value};"]
            own = ""
        else:
            own += f"{value};"
    return [*texts, f"{own}{BOX}{value}}}"]


class CalculatorSums(BuiltInTask):
    """Sums of numbers of three digits, with a calculator."""

    name = "calculator"
    tokens = tokens_with("")
    max_prompt_tokens = 25
    example = "347+582-164+205:"
    pretraining = BaseModelSettings(hidden_size=64, ffn_size=192, num_layers=3, careful_share=0.3, num_steps=300)

    @staticmethod
    def draw(rng: random.Random) -> tuple[str, str]:
        start, steps = draw_sum(rng)
        return written(start, steps), str(start + sum(steps))

    @staticmethod
    def draw_corpus(seed: int, careful_share: float) -> Iterator[tuple[str, ...]]:
        """Yield endless conversations, none on an evaluation problem; each step is a call with probability
        `careful_share`. Those whose results leave three digits are dropped."""
        rng = random.Random(f"calculator corpus {seed}")
        while True:
            start, steps = draw_sum(rng)
            texts = converse(start, steps, [rng.random() < careful_share for _ in steps])
            if texts is not None and not is_eval_prompt(written(start, steps)):
                yield (written(start, steps), *texts)
