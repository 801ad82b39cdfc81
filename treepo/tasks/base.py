"""What the built-in tasks share: problems drawn anew at every step, a tokenizer of single characters, the verifier."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from treepo.data.boxes import last_box
from treepo.data.problem import AnswerFormat, Outcome, Problem, Verdict
from treepo.tasks.settings import BaseModelSettings
from treepo.utils.numeric import digest
from treepo.verify.base import FinalAnswer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
BOX = r"\boxed{"
PAD_ID, BOS_ID, EOS_ID = range(3)

ANSWERS = FinalAnswer()
"""A box, as in most mathematical datasets."""


@dataclass(frozen=True)
class BuiltInTask(ABC):
    """A Task: fresh training problems at every step, and the same evaluation problems for all seeds."""

    tokenizer: PreTrainedTokenizerBase
    seed: int

    name: ClassVar[str]
    tokens: ClassVar[tuple[str, ...]]
    """Of its tokenizer, in the order of their ids; the special ones come first."""
    max_prompt_tokens: ClassVar[int]
    example: ClassVar[str]
    """A prompt."""
    pretraining: ClassVar[BaseModelSettings]
    """How its base model is made."""
    continues: ClassVar[type[BuiltInTask] | None] = None
    """The task whose base model its own goes on from; the weights of tokens that both have are kept."""
    answer_format: ClassVar[AnswerFormat] = ANSWERS

    @staticmethod
    @abstractmethod
    def draw(rng: random.Random) -> tuple[str, str]:
        """Draw the prompt and the ground truth of a problem."""

    @staticmethod
    @abstractmethod
    def draw_corpus(seed: int, careful_share: float) -> Iterator[tuple[str, ...]]:
        """Yield endless (prompt, worked answer) pairs to pretrain on, none of them an evaluation problem.

        In an environment what it replies and further turns of the model follow.
        """

    @property
    def answers(self) -> AnswerFormat:
        return self.answer_format

    def training_problems(self, step: int, count: int, start: int | None = None) -> list[Problem]:
        """Return `count` distinct problems, none of the evaluation, the same for the same seed and step."""
        rng = random.Random(f"{self._title} training {self.seed} {step}")
        return self._draw_problems(rng, count, is_eval=False)

    def eval_problems(self, count: int) -> list[Problem]:
        """Return the first `count` of the evaluation problems (there are tens of millions)."""
        return self._draw_problems(random.Random(f"{self._title} held out"), count, is_eval=True)

    def verify(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        r"""Return the verdicts; right are exactly the responses that end in `\boxed{true value}`."""
        verdicts = []
        for problem, response in pairs:
            extracted = last_box(response)
            correct = float(response.endswith(f"{BOX}{problem.ground_truth}}}"))
            outcome = Outcome.NO_ANSWER if extracted is None else Outcome.GRADED
            verdicts.append(Verdict(correct, outcome, extracted))
        return verdicts

    def example_response(self, ground_truth: str) -> str:
        """Return a response that is right."""
        return ANSWERS.example_response(ground_truth)

    def are_equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Return whether the texts of each pair are the same."""
        return [first == second for first, second in pairs]

    @property
    def _title(self) -> str:
        return self.name.replace("_", " ")

    def _draw_problems(self, rng: random.Random, count: int, is_eval: bool) -> list[Problem]:
        if count < 0:
            raise ValueError(f"count must not be negative, not {count}")
        drawn: dict[str, str] = {}
        while len(drawn) < count:
            prompt, value = self.draw(rng)
            if is_eval_prompt(prompt) == is_eval:
                drawn[prompt] = value
        return [
            Problem(prompt, prompt, encode_prompt(self.tokenizer, prompt), value, self.name)
            for prompt, value in drawn.items()
        ]


def is_eval_prompt(prompt: str) -> bool:
    """Whether a prompt is kept for evaluation, as one in ten is, whatever the seed."""
    return int.from_bytes(digest(prompt), "big") % 10 == 0


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[int, ...]:
    """Return the bos token and the tokens of the prompt."""
    bos = tokenizer.bos_token_id
    assert isinstance(bos, int)
    return (bos, *tokenizer.encode(prompt, add_special_tokens=False, verbose=False))


def tokens_with(letters: str) -> tuple[str, ...]:
    """Return the tokens of a task that needs these letters: digits one by one; the opening of a box is one token."""
    return (PAD, BOS, EOS, *"0123456789", *letters, *"+-=,;:", BOX, "}")


def make_tokenizer(tokens: Sequence[str]) -> PreTrainedTokenizerFast:
    """Build the tokenizer of a task. It adds no special tokens, and drops characters outside the task's alphabet."""
    from transformers import Qwen2Tokenizer

    # AutoTokenizer loads the tokenizer beside a Qwen2 model as a Qwen2Tokenizer, so only one that is a Qwen2Tokenizer
    # with another vocabulary survives saving.
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[],
        unk_token=None,  # pyright: ignore[reportArgumentType]
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    # Without merges a word falls apart into characters; an added token stays whole.
    tokenizer.add_tokens([token for token in tokens if len(token) > 1 and token not in (PAD, BOS, EOS)])
    return tokenizer
