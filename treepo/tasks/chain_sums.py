r"""The built-in task: sums such as `62a-7b+7c+2d+3:`, their worked answers, and a tokenizer of 29 tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from treepo.data.boxes import last_box
from treepo.data.problem import AnswerFormat, Outcome, Problem, Verdict
from treepo.utils.numeric import digest
from treepo.verify.base import FinalAnswer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
BOX = r"\boxed{"
PAD_ID, BOS_ID, EOS_ID = range(3)
TOKENS = (PAD, BOS, EOS, *"0123456789", *"abcdefgh", *"+-=,;:", BOX, "}")
"""Digits one by one; the opening of a box is one token."""

LABELS = "abcdefgh"
MIN_RESULT, MAX_RESULT = 10, 89

ANSWERS = FinalAnswer()
"""A box, as in most mathematical datasets."""

MAX_PROMPT_TOKENS = 22
"""Prompt of a problem with six steps: bos, two digits, three tokens per step, a colon."""


def make_chain_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer. It adds no special tokens, and drops characters outside the task's alphabet."""
    from transformers import Qwen2Tokenizer

    # AutoTokenizer loads the tokenizer beside a Qwen2 model as a Qwen2Tokenizer, so only one that is a Qwen2Tokenizer
    # with another vocabulary survives saving.
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(TOKENS)},
        merges=[],
        unk_token=None,  # pyright: ignore[reportArgumentType]
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    # Without merges a word falls apart into characters; an added token stays whole.
    tokenizer.add_tokens([BOX])
    return tokenizer


def is_chain_tokenizer(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a model's tokenizer is that of the built-in task."""
    return tokenizer.get_vocab() == {token: index for index, token in enumerate(TOKENS)}


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


def is_eval_prompt(prompt: str) -> bool:
    """Whether a prompt is kept for evaluation, as one in ten is, whatever the seed."""
    return int.from_bytes(digest(prompt), "big") % 10 == 0


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


def worked_answer(chain: Chain, careful: Sequence[bool]) -> str | None:
    """Work a chain, each step carefully or carelessly, and return the answer's text.

    None if a result leaves 10-89, which cannot be written with two digits: a careful step after a careless one may.
    """
    if len(careful) != len(chain.steps):
        raise ValueError(f"careful: {len(careful)} values for {len(chain.steps)} steps")
    value, text = chain.start, ""
    for label, step, is_careful in zip(LABELS, chain.steps, careful, strict=False):
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


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[int, ...]:
    """Return the bos token and the tokens of the prompt."""
    bos = tokenizer.bos_token_id
    assert isinstance(bos, int)
    return (bos, *tokenizer.encode(prompt, add_special_tokens=False, verbose=False))


@dataclass(frozen=True)
class ChainSums:
    """The built-in Task: fresh training problems at every step, and the same evaluation problems for all seeds."""

    tokenizer: PreTrainedTokenizerBase
    seed: int

    @property
    def answers(self) -> AnswerFormat:
        return ANSWERS

    def training_problems(self, step: int, count: int) -> list[Problem]:
        """Return `count` distinct problems, none of the evaluation, the same for the same seed and step."""
        rng = random.Random(f"chain sums training {self.seed} {step}")
        return self._draw_problems(rng, count, is_eval=False)

    def eval_problems(self, count: int) -> list[Problem]:
        """Return the first `count` of the evaluation problems (there are tens of millions)."""
        return self._draw_problems(random.Random("chain sums held out"), count, is_eval=True)

    def verify(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        r"""Return the verdicts; right are exactly the responses that end in `\boxed{true value}`."""
        verdicts = []
        for problem, response in pairs:
            extracted = last_box(response)
            correct = float(response.endswith(f"{BOX}{problem.ground_truth}}}"))
            outcome = Outcome.NO_ANSWER if extracted is None else Outcome.GRADED
            verdicts.append(Verdict(correct, outcome, extracted))
        return verdicts

    def are_equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Return whether the texts of each pair are the same."""
        return [first == second for first, second in pairs]

    def _draw_problems(self, rng: random.Random, count: int, is_eval: bool) -> list[Problem]:
        if count < 0:
            raise ValueError(f"count must not be negative, not {count}")
        chains: dict[str, Chain] = {}
        while len(chains) < count:
            chain = draw_chain(rng)
            if is_eval_prompt(chain.prompt) == is_eval:
                chains[chain.prompt] = chain
        return [
            Problem(c.prompt, c.prompt, encode_prompt(self.tokenizer, c.prompt), str(c.value), "chain_sums")
            for c in chains.values()
        ]
