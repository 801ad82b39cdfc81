r"""The built-in task: sums such as `62a-7b+7c+2d+3:`, their worked answers, and a tokenizer of 29 tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from treepo.tasks.base import BOX, BuiltInTask, is_eval_prompt, make_tokenizer, tokens_with
from treepo.tasks.settings import BaseModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LABELS = "abcdefgh"
MIN_RESULT, MAX_RESULT = 10, 89


@dataclass(frozen=True)
class Chain:
    """A start, and the number added at each step (negative: subtracted)."""

    start: int
    steps: tuple[int, ...]

    @property
    def prompt(self) -> str:
        """The chain as text, such as `62a-7b+7c+2d+3:`."""
        steps = "".join(f"{label}{step:+}" for label, step in zip(LABELS, self.steps, strict=False))
        return f"{self.start}{steps}:"

    @property
    def value(self) -> int:
        """The true result."""
        return self.start + sum(self.steps)


def draw_chain(rng: random.Random) -> Chain:
    """Draw a number of steps from three to six, then a chain of that many steps uniformly."""
    num_steps = rng.randint(3, 6)
    while True:
        # The whole chain is redrawn, not just the step that left the range: this keeps it uniform.
        start = rng.randint(MIN_RESULT, MAX_RESULT)
        steps = tuple(rng.choice((-1, 1)) * rng.randint(2, 9) for _ in range(num_steps))
        results = (start + sum(steps[: i + 1]) for i in range(num_steps))
        if all(MIN_RESULT <= result <= MAX_RESULT for result in results):
            return Chain(start, steps)


def work_step(value: int, step: int, careful: bool) -> list[tuple[int, int]]:
    """Work one step and return its equations as pairs (number added, result).

    A step without carry or borrow ignores `careful`. A careful one with a carry or borrow goes to the ten first: two
    equations, or one if it starts or ends on the ten. A careless one forgets the carry.
    """
    ones = value % 10
    if 0 <= ones + step < 10:
        return [(step, value + step)]
    if not careful:
        wrong_ones = ones + step - 10 if step > 0 else -(ones + step)
        return [(step, value - ones + wrong_ones)]
    to_ten = 10 - ones if step > 0 else -ones
    ten = value + to_ten
    equations = [(to_ten, ten), (step - to_ten, value + step)]
    return [(added, result) for added, result in equations if added != 0]


def worked_answer(chain: Chain, careful: Sequence[bool], labels: str = LABELS) -> str | None:
    """Work a chain, each step carefully or carelessly, and return the answer's text. labels: of the steps.

    None if a result leaves 10-89, which cannot be written with two digits: a careful step after a careless one may.
    """
    if len(careful) != len(chain.steps):
        raise ValueError(f"careful: {len(careful)} values for {len(chain.steps)} steps")
    value, text = chain.start, ""
    for label, step, is_careful in zip(labels, chain.steps, careful, strict=False):
        equations: list[str] = []
        for added, result in work_step(value, step, is_careful):
            if not MIN_RESULT <= result <= MAX_RESULT:
                return None
            equations.append(f"{value}{added:+}={result}")
            value = result
        text += f"{label}{','.join(equations)};"
    return f"{text}{BOX}{value}}}"


def draw_corpus(seed: int, careful_share: float) -> Iterator[tuple[str, str]]:
    """Yield endless (prompt, worked answer) pairs to pretrain on, none of them an evaluation problem.

    Each step is careful with probability `careful_share`, independently of the others. Answers that leave 10-89 are
    dropped with their chain (about 2% at a share of 0.45).
    """
    if not 0 <= careful_share <= 1:
        raise ValueError(f"careful_share must be within 0 and 1, not {careful_share}")
    rng = random.Random(f"chain sums corpus {seed}")
    while True:
        chain = draw_chain(rng)
        answer = worked_answer(chain, [rng.random() < careful_share for _ in chain.steps])
        if answer is not None and not is_eval_prompt(chain.prompt):
            yield chain.prompt, answer


def make_chain_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer of chain sums, which is also that of benchmarks."""
    return make_tokenizer(ChainSums.tokens)


class ChainSums(BuiltInTask):
    """Chains of additions and subtractions."""

    name = "chain_sums"
    tokens = tokens_with(LABELS)
    max_prompt_tokens = 22
    example = "71a-3b-3c-5d-6:"
    pretraining = BaseModelSettings()

    @staticmethod
    def draw(rng: random.Random) -> tuple[str, str]:
        chain = draw_chain(rng)
        return chain.prompt, str(chain.value)

    @staticmethod
    def draw_corpus(seed: int, careful_share: float) -> Iterator[tuple[str, str]]:
        return draw_corpus(seed, careful_share)
