"""Datasets without an end: the problem at each position is made from a seed and the position alone."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from treepo.data.conversations import Prompt
from treepo.data.problem import Problem, text_key
from treepo.data.reasoning_gym import ENTRIES_PER_SEED, GymSource, as_literals, make_entry
from treepo.errors import SettingError
from treepo.utils.numeric import derive_seed

logger = logging.getLogger(__name__)

Encode = Callable[[Prompt], Sequence[int]]
"""What a record asks to the token ids that the model is conditioned on."""

MAX_DRAWS = 100
"""Problems that are made for one position, until one can be asked."""


@dataclass(frozen=True)
class EndlessDataset:
    """Problems of reasoning-gym without an end. name: its name in metrics.

    encode, max_prompt_len: how prompts become tokens, and how many they may have at most. max_chars: longer questions
    are not even encoded. held_out: questions, as `text_key` has them, that are never asked here.
    """

    name: str
    source: GymSource
    seed: int
    encode: Encode
    max_prompt_len: int
    max_chars: int
    held_out: frozenset[str] = frozenset()

    def problems(self, positions: Iterable[int]) -> list[Problem]:
        """The problem at each position, the same whatever was asked for before.

        Problems that are too long, held out or cannot be made are passed over for another draw at the same position.
        Raises SettingError if none of MAX_DRAWS can be asked.
        """
        passed_over: Counter[str] = Counter()
        found = [self._problem(position, passed_over) for position in positions]
        if passed_over:
            logger.debug("%s: passed over %s for %d problems", self.name, _listed(passed_over), len(found))
        return found

    def first(self, count: int) -> tuple[Problem, ...]:
        """The first problems with different questions, `count` of them or fewer if the dataset repeats itself."""
        found: dict[str, Problem] = {}
        for position in range(2 * count + MAX_DRAWS):
            if len(found) == count:
                break
            (problem,) = self.problems([position])
            found.setdefault(text_key(problem.prompt), problem)
        return tuple(found.values())

    def reseeded(self, seed: int) -> "EndlessDataset":
        """The same dataset with other problems."""
        return replace(self, seed=seed)

    def log_passed_over(self, count: int) -> None:
        """Warn how many draws are passed over for the first positions, and why."""
        passed_over: Counter[str] = Counter()
        for position in range(count):
            self._problem(position, passed_over)
        if passed_over:
            drawn = count + passed_over.total()
            logger.warning("%s: of the first %d problems made, passed over: %s", self.name, drawn, _listed(passed_over))

    def _problem(self, position: int, passed_over: Counter[str]) -> Problem:
        number, index = divmod(position, ENTRIES_PER_SEED)
        own: Counter[str] = Counter()
        for attempt in range(MAX_DRAWS):
            # 31 bits: what every random generator takes, also with an index added.
            seed = derive_seed(self.seed, self.source.spec, number, attempt) % 2**31
            problem, reason = self._draw(seed, index)
            if problem is not None:
                passed_over.update(own)
                return problem
            own[reason] += 1
        raise SettingError("data", f"{self.name}: none of {MAX_DRAWS} problems can be asked: {_listed(own)}")

    def _draw(self, seed: int, index: int) -> tuple[Problem | None, str]:
        """A problem, or why it is passed over."""
        spec = self.source.spec
        entry = make_entry(spec, seed, index)
        if entry is None:
            return None, "the library's generator failed"
        question, answer = entry["question"], entry["answer"]
        if text_key(question) in self.held_out:
            return None, "held out (data.eval_size)"
        prompt_ids = () if len(question) > self.max_chars else tuple(self.encode(question))
        if not 0 < len(prompt_ids) <= self.max_prompt_len:
            return None, f"prompts of more than {self.max_prompt_len} tokens (data.max_prompt_len)"
        columns = {"reasoning_gym": spec, "seed": seed, "index": index, "entry": as_literals(entry)}
        known = "" if answer is None else str(answer)
        return Problem(f"{self.source}#{seed}:{index}", question, prompt_ids, known, self.name, columns), ""


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
