"""The stored record of an answer, and the cost of decoding."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
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
    """One answer and its verdict.

    model: its folder or name. setting: label of the sampling setting. problem: its id, unique in the dataset. sample:
    number of the answer among those to the problem, from 0. extracted_answer: None without one. vote: the extracted
    answer that stands for all equal ones to the problem; None without an answer. correct: the verifier's score, 0 to 1;
    without a verifier the environment's reward, any number. outcome: the verifier's: graded, no answer, a time-out and
    so on. num_tokens: length of the response. stop: why the response ended. seed: of the random stream that sampled it.
    environment_reward: the sum over all turns. turns: who wrote what, JSON of a list of `TurnText`. Both are None where
    no turn ended.
    """

    model: str
    setting: str
    dataset: str
    problem: str
    sample: int
    prompt: str
    ground_truth: str
    response: str
    extracted_answer: str | None
    vote: str | None
    correct: float
    outcome: str
    num_tokens: int
    stop: str
    seed: int
    environment_reward: float | None = None
    turns: str | None = None

    @property
    def key(self) -> ProblemKey:
        """The problem that this answers."""
        return ProblemKey(self.model, self.setting, self.dataset, self.problem)


@dataclass(frozen=True)
class Cost:
    """The cost of decoding.

    tokens_decoded: tokens sampled; those that several answers share count once. tokens_prefilled: tokens of prefixes
    that the engine computed. wall_s: wall time in seconds. accelerator_s: wall time x the accelerators in use.
    """

    tokens_decoded: int = 0
    tokens_prefilled: int = 0
    wall_s: float = 0.0
    accelerator_s: float = 0.0


NUMBERS = {
    "sample": pa.int32(),
    "correct": pa.float64(),
    "num_tokens": pa.int32(),
    "seed": pa.int64(),
    "environment_reward": pa.float64(),
}

ADDED = ("environment_reward", "turns")
"""Columns that files of earlier versions have not; they read as null."""

SCHEMA = pa.schema([(field.name, NUMBERS.get(field.name, pa.string())) for field in fields(AnswerRecord)])
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
    for name in set(SCHEMA.names) - NUMBERS.keys():
        columns[name] = [None if value is None else replace_surrogates(value) for value in columns[name]]
    return pa.table(columns, schema=SCHEMA)
