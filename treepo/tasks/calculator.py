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

if TYPE_CHECKING:
    from treepo.data.problem import Problem

BOX = r"\boxed{"
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


def draw_conversations(seed: int, call_share: float) -> Iterator[tuple[str, ...]]:
    """Yield endless conversations, each the prompt and what is written in turns; each step is a call with probability
    `call_share`. Those whose results leave three digits are dropped."""
    rng = random.Random(f"calculator corpus {seed}")
    while True:
        value, steps = draw_sum(rng)
        texts, own = [written(value, steps)], ""
        for step in steps:
            own += f"{value}{step:+}="
            if rng.random() < call_share:
                value += step
                texts += [own, f"{value};"]
                own = ""
            else:
                value = without_carry(value, step)
                own += f"{value};"
            if not MIN_RESULT <= value <= MAX_RESULT:
                break
        else:
            yield (*texts, f"{own}{BOX}{value}}}")
