"""The stored record of an answer, and the cost of decoding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from treepo.utils.text import replace_surrogates


class ProblemKey(NamedTuple):
    """One problem as one model answers it under one sampling setting."""

    model: str
    setting: str
    dataset: str
    problem: str


@dataclass(frozen=True)
class AnswerRecord:
    """One answer and its verdict."""

    model: str
    """Folder or name of the model."""

    setting: str
    """Label of the sampling setting."""

    dataset: str
    """Label of the dataset that the problem is from."""

    problem: str
    """Its id, unique in the dataset."""

    sample: int
    """Number of the answer among those to the problem, from 0."""

    prompt: str
    """The question as asked."""

    ground_truth: str
    """The reference answer."""

    response: str
    """The model's response."""

    extracted_answer: str | None
    """The extracted answer in a form that equal answers share; None if there is none."""

    correct: float
    """The verifier's score, 0 to 1."""

    outcome: str
    """The verifier's outcome: graded, no answer, a time-out and so on."""

    num_tokens: int
    """Length of the response in tokens."""

    stop: str
    """Why the response ended."""

    seed: int
    """Seed of the random stream that sampled it."""

    @property
    def key(self) -> ProblemKey:
        """The problem that this answers."""
        return ProblemKey(self.model, self.setting, self.dataset, self.problem)


@dataclass(frozen=True)
class Cost:
    """The cost of decoding."""

    tokens_decoded: int = 0
    """Tokens sampled; tokens that several answers share count once."""

    tokens_prefilled: int = 0
    """Tokens of prefixes that the engine computed."""

    wall_s: float = 0.0
    """Wall time in seconds."""

    accelerator_s: float = 0.0
    """Wall time times the number of accelerators in use."""


SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("setting", pa.string()),
        ("dataset", pa.string()),
        ("problem", pa.string()),
        ("sample", pa.int32()),
        ("prompt", pa.string()),
        ("ground_truth", pa.string()),
        ("response", pa.string()),
        ("extracted_answer", pa.string()),
        ("correct", pa.float64()),
        ("outcome", pa.string()),
        ("num_tokens", pa.int32()),
        ("stop", pa.string()),
        ("seed", pa.int64()),
    ]
)
"""Columns of a table of answers, one row each: the fields of AnswerRecord."""


def to_table(records: Sequence[AnswerRecord]) -> pa.Table:
    """Records as a table. Half surrogate pairs in texts, which a model can write, become U+FFFD.

    Raises ValueError naming field and value if a field of the key holds one: another key would be read back.
    """
    columns = {name: [getattr(record, name) for record in records] for name in SCHEMA.names}
    for name in ProblemKey._fields:
        bad = [value for value in columns[name] if replace_surrogates(value) != value]
        if bad:
            raise ValueError(f"{name}: {bad[0]!a} holds half a surrogate pair, which is no text")
    for name in ("prompt", "ground_truth", "response", "extracted_answer", "outcome", "stop"):
        columns[name] = [None if value is None else replace_surrogates(value) for value in columns[name]]
    return pa.table(columns, schema=SCHEMA)
