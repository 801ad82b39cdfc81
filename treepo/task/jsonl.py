"""Problems from a JSON-lines file."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from treepo.seeds import derive_seed
from treepo.task.answers import is_right
from treepo.task.problem import Problem

Encode = Callable[[str], list[int]]
"""A question to the token ids that the model is conditioned on."""


@dataclass(frozen=True)
class JsonlFormat:
    """Which fields hold what."""

    prompt_field: str = "prompt"
    """Field with the question."""

    answer_field: str = "answer"
    """Field with the known answer; numbers are taken as they are written."""

    answer_after: str = ""
    """If given, the known answer is what follows the last occurrence of this mark (GSM8K: ####)."""


def read_problems(path: Path, form: JsonlFormat, encode: Encode, setting: str = "data.path") -> list[Problem]:
    """Read one problem per line; ids are the file's name and the line number.

    setting: the one that named the file, for messages. Raises ValueError naming file, line and field for a missing
    file, an empty or malformed line, a missing field.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{setting}: cannot read {str(path)!r}: {error}") from error
    if not text.strip():
        raise ValueError(f"{setting}: {str(path)!r} is empty")
    # Not splitlines: it also splits at characters that may stand inside a JSON string.
    lines = text.removesuffix("\n").split("\n")
    return [
        _problem(f"{path.name}:{number}", line, form, encode, setting) for number, line in enumerate(lines, start=1)
    ]


def _problem(place: str, line: str, form: JsonlFormat, encode: Encode, setting: str) -> Problem:
    if not line.strip():
        raise ValueError(f"{setting}: {place}: empty line")
    try:
        # Numbers stay as they are written: 1.50 is not 1.5.
        record = json.loads(line, parse_float=str, parse_int=str, parse_constant=_not_a_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{setting}: {place}: not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{setting}: {place}: not a JSON object")
    prompt, answer = (_field(record, name, place, setting) for name in (form.prompt_field, form.answer_field))
    if form.answer_after:
        _, mark, answer = answer.rpartition(form.answer_after)
        if not mark:
            raise ValueError(f"{setting}: {place}: no {form.answer_after!r} in field {form.answer_field!r}")
        if not answer.strip():
            raise ValueError(f"{setting}: {place}: nothing after {form.answer_after!r} in field {form.answer_field!r}")
    prompt_ids = tuple(encode(prompt))
    if not prompt_ids:
        raise ValueError(f"{setting}: {place}: the prompt has no tokens")
    return Problem(place, prompt, prompt_ids, answer.strip())


def _not_a_number(name: str) -> str:
    raise ValueError(f"{name} is not a number of JSON")


def _field(record: dict[str, object], name: str, place: str, setting: str) -> str:
    if name not in record:
        raise ValueError(f"{setting}: {place}: no field {name!r}; there are {sorted(record)}")
    value = record[name]
    if not isinstance(value, str):
        raise ValueError(f"{setting}: {place}: field {name!r} must be text or a number, got {value!r}")
    if not value.strip():
        raise ValueError(f"{setting}: {place}: field {name!r} is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{setting}: {place}: field {name!r} holds half a surrogate pair, which is no text")
    return value


@dataclass(frozen=True)
class JsonlTask:
    """Problems from files, asked in a new seeded order in every epoch.

    train, held_out: disjoint lists of problems.
    """

    train: list[Problem]
    held_out: list[Problem]
    seed: int = 0

    def training_problems(self, step: int, count: int) -> list[Problem]:
        """Problems step x count .. (step + 1) x count - 1 of the endless sequence of epochs; see Task."""
        size = len(self.train)
        orders: dict[int, np.ndarray] = {}
        problems = []
        for i in range(step * count, (step + 1) * count):
            epoch, place = divmod(i, size)
            if epoch not in orders:
                orders[epoch] = np.random.default_rng(derive_seed(self.seed, "epoch", epoch)).permutation(size)
            problems.append(self.train[orders[epoch][place]])
        return problems

    def held_out_problems(self, count: int) -> list[Problem]:
        """The first `count` held-out problems; see Task."""
        return self.held_out[:count]

    def reward(self, problem: Problem, response: str) -> float:
        """1.0 if the last complete box holds the known answer; see Task."""
        return float(is_right(response, problem.answer))


def split_held_out(problems: list[Problem]) -> tuple[list[Problem], list[Problem]]:
    """(train, held out): one problem in ten, chosen by a hash of its text, is never trained on."""
    held_out = [p for p in problems if _hash(p.prompt) % 10 == 0]
    return [p for p in problems if _hash(p.prompt) % 10 != 0], held_out


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
