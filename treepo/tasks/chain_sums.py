r"""The tokenizer of the built-in task: 29 tokens, digits one by one, `\boxed{` as one."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from treepo.data.problem import Outcome, Problem, Verdict
from treepo.utils.text import last_box

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
BOX = r"\boxed{"
PAD_ID, BOS_ID, EOS_ID = range(3)
TOKENS = (PAD, BOS, EOS, *"0123456789", *"abcdefgh", *"+-=,;:", BOX, "}")


def make_chain_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: it gives back exactly the text it was given and adds no special tokens.

    Characters outside the task's alphabet are dropped, as there is no token for them.
    """
    from transformers import Qwen2Tokenizer

    # AutoTokenizer rebuilds whatever lies beside a Qwen2 model as a Qwen2Tokenizer, so only one
    # that is such a tokenizer from the start, and differs in vocabulary alone, survives saving.
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
    """Whether a model's tokenizer is this one: what it is asked are then problems of the built-in task."""
    return tokenizer.get_vocab() == {token: index for index, token in enumerate(TOKENS)}


LABELS = "abcdefgh"
MIN_RESULT, MAX_RESULT = 10, 89

LONGEST_PROMPT = 22
"""Tokens of a problem with six steps: bos, two digits, three tokens a step, a colon."""


@dataclass(frozen=True)
class Chain:
    """A start and what is added to it step by step (negative: subtracted)."""

    start: int
    steps: tuple[int, ...]

    @property
    def prompt(self) -> str:
        """The chain as asked, such as `62a-7b+7c+2d+3:`."""
        steps = "".join(f"{label}{step:+}" for label, step in zip(LABELS, self.steps, strict=False))
        return f"{self.start}{steps}:"

    @property
    def value(self) -> int:
        """The true result."""
        return self.start + sum(self.steps)


def draw_chain(rng: random.Random) -> Chain:
    """Draw three to six steps, then one of all chains of that many steps, each as likely."""
    num_steps = rng.randint(3, 6)
    while True:
        # Redrawing the whole chain, not just the step that left the range, keeps it uniform.
        start = rng.randint(MIN_RESULT, MAX_RESULT)
        steps = tuple(rng.choice((-1, 1)) * rng.randint(2, 9) for _ in range(num_steps))
        results = (start + sum(steps[: i + 1]) for i in range(num_steps))
        if all(MIN_RESULT <= result <= MAX_RESULT for result in results):
            return Chain(start, steps)


def is_held_out(prompt: str) -> bool:
    """Say whether a prompt is kept for evaluation, as one in ten is, whatever the seed."""
    digest = hashlib.blake2b(prompt.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 10 == 0


def work_step(value: int, step: int, careful: bool) -> list[tuple[int, int]]:
    """Work one step and return the equations written, as pairs (what is added, result).

    A plain step ignores `careful`. A careful one with a carry or borrow goes to the ten and on
    from there: two equations, or one if it starts or ends on the ten.
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

    None if a result leaves 10-89. All-careful and all-careless answers never do; a careful step
    after a careless one may, and then there is no two-digit way to write it.
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
    return text + boxed(str(value))


def boxed(answer: str) -> str:
    r"""Return `\boxed{answer}`, what a right response ends in."""
    return rf"\boxed{{{answer}}}"


def draw_corpus(seed: int, careful_share: float) -> Iterator[tuple[str, str]]:
    """Yield endless (prompt, worked answer) pairs, none of them held out, to pretrain on.

    Each step is careful with probability `careful_share`, independently of the others. Answers
    that leave 10-89 are dropped with their chain (about 2% at a share of 0.45).
    """
    if not 0 <= careful_share <= 1:
        raise ValueError(f"careful_share must be within 0 and 1, not {careful_share}")
    rng = random.Random(f"chain sums corpus {seed}")
    while True:
        chain = draw_chain(rng)
        answer = worked_answer(chain, [rng.random() < careful_share for _ in chain.steps])
        if answer is not None and not is_held_out(chain.prompt):
            yield chain.prompt, answer


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[int, ...]:
    """Return what a model is conditioned on: the bos token and the prompt as plain text."""
    bos = tokenizer.bos_token_id
    assert isinstance(bos, int)
    return (bos, *tokenizer.encode(prompt, add_special_tokens=False, verbose=False))


@dataclass(frozen=True)
class ChainSums:
    """The task: fresh training problems at every step, and one held-out set for all seeds."""

    tokenizer: PreTrainedTokenizerBase
    seed: int

    def training_problems(self, step: int, count: int) -> list[Problem]:
        """Return `count` distinct problems, none held out, the same for the same seed and step."""
        rng = random.Random(f"chain sums training {self.seed} {step}")
        return self._draw_problems(rng, count, held_out=False)

    def eval_problems(self, count: int) -> list[Problem]:
        """Return the first `count` of the held-out problems (there are tens of millions)."""
        rng = random.Random("chain sums held out")
        return self._draw_problems(rng, count, held_out=True)

    def verify(self, asked: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        r"""Right are exactly the responses that end in `\boxed{true value}`; see Task."""
        return [_verdict(problem, response) for problem, response in asked]

    def _draw_problems(self, rng: random.Random, count: int, held_out: bool) -> list[Problem]:
        if count < 0:
            raise ValueError(f"count must not be negative, not {count}")

        def distinct_chains() -> Iterator[Chain]:
            seen: set[str] = set()
            while True:
                chain = draw_chain(rng)
                if is_held_out(chain.prompt) == held_out and chain.prompt not in seen:
                    seen.add(chain.prompt)
                    yield chain

        return [self._problem(chain) for chain in islice(distinct_chains(), count)]

    def _problem(self, chain: Chain) -> Problem:
        return Problem(
            id=chain.prompt,
            prompt=chain.prompt,
            prompt_ids=encode_prompt(self.tokenizer, chain.prompt),
            ground_truth=str(chain.value),
            dataset="chain_sums",
        )


def _verdict(problem: Problem, response: str) -> Verdict:
    given = last_box(response)
    correct = float(response.endswith(boxed(problem.ground_truth)))
    return Verdict(correct, Outcome.NO_ANSWER if given is None else Outcome.GRADED, given)
