"""The files that a run appends to: metrics.jsonl and samples.jsonl."""

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from treepo.errors import SettingError
from treepo.report.trees import KeptTree
from treepo.utils.files import LOG_BYTES, open_plain, read_plain
from treepo.utils.io import replace_bytes, writing
from treepo.utils.text import sanitize

logger = logging.getLogger(__name__)

Metrics = dict[str, float]


@dataclass(frozen=True)
class MetricsLog:
    """Appends to and reads one metrics.jsonl."""

    path: Path

    def append(self, step: int, metrics: Metrics) -> None:
        """Write the object of one step; it is on disk when this returns. Raises WriteError."""
        with writing(self.path, f"the metrics of step {step}"), open_plain(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | metrics) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Metrics]:
        """The numbers of each step, oldest first. What else there is, somebody has put there, and is left out."""
        found = (object_of(line) for line in read_lines(self.path))
        return [{name: value for name, value in read.items() if is_number(value)} for read in found if read is not None]

    def last_whole_step(self) -> int:
        """The last step up to which there is one whole object for each, from 0; -1 if there is none."""
        return len(self._whole_lines()) - 1

    def cut(self, last_step: int) -> None:
        """Drop what comes after the object of a step, which must not be above `last_whole_step`. Raises WriteError."""
        lines = self._whole_lines()
        assert last_step < len(lines), "the objects of all steps before are there"
        rewrite(self.path, lines[: last_step + 1])

    def _whole_lines(self) -> list[bytes]:
        lines = read_lines(self.path)
        steps = (step_of(line) for line in lines)
        return lines[: next((i for i, step in enumerate(steps) if step != i), len(lines))]


MAX_NUMBER = 2**1000
"""Largest whole number that is read; JSON allows any number of digits."""


def is_number(value: object) -> bool:
    """Whether it is a number that a float can hold; infinite ones count."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) <= MAX_NUMBER


def read_lines(path: Path) -> list[bytes]:
    """The lines of a file with their ends, none if it is not there. Raises SettingError if it cannot be read."""
    try:
        if path.exists() and not path.is_file():
            raise SettingError("resume", f"{str(path)!r} is no file")
        return read_plain(path, LOG_BYTES).splitlines(keepends=True) if path.exists() else []
    except OSError as error:
        raise SettingError("resume", f"{str(path)!r} cannot be read: {error.strerror}") from error


def rewrite(path: Path, lines: Sequence[bytes]) -> None:
    """Let a file hold these of its lines alone. A full disk does not matter where it holds no others. Raises
    WriteError."""
    content = b"".join(lines)
    if not path.exists() or path.read_bytes() != content:
        with writing(path, "nothing"):
            replace_bytes(path, content)


def object_of(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a whole line, or None."""
    try:
        read = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def step_of(line: bytes) -> int | None:
    """The step of a whole line, or None."""
    step = (object_of(line) or {}).get("step")
    return step if type(step) is int else None


@dataclass(frozen=True)
class SampleRow:
    """One trajectory of a step, its texts sanitized.

    reward, advantage: None where there is none. An estimator with one advantage per node gives that of the last node.
    """

    problem: str
    prompt: str
    response: str
    reward: float | None
    advantage: float | None
    stop: str
    num_tokens: int


COLUMNS = tuple(f.name for f in fields(SampleRow))


def choose_samples(
    trees: Sequence[KeptTree], decode: Callable[[Sequence[int]], str], num_problems: int, num_answers: int
) -> list[SampleRow]:
    """The best and the worst trajectory of each of the first trees, and others at even distances between.

    num_problems: trees at most; num_answers: trajectories per tree at most.
    """
    return [sample for kept in trees[:num_problems] for sample in _samples(kept, decode, num_answers)]


def append_samples(path: Path, step: int, samples: Sequence[SampleRow]) -> None:
    """Write one JSON object per sample. Raises WriteError."""
    with writing(path, f"the samples of step {step}"), open_plain(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps({"step": step} | asdict(sample)) + "\n" for sample in samples)


def cut_samples(path: Path, last_step: int) -> None:
    """Drop the samples of later steps when a run is resumed, and lines that hold none, with a warning.

    Raises SettingError if the file cannot be read, WriteError if it cannot be written.
    """
    lines = read_lines(path)
    steps = [step_of(line) for line in lines]
    if damaged := steps.count(None):
        logger.warning("%r is damaged: %d of its lines hold no sample and are dropped", str(path), damaged)
    kept = [line for line, step in zip(lines, steps, strict=True) if step is not None and step <= last_step]
    if kept != lines:
        rewrite(path, kept)


def _samples(kept: KeptTree, decode: Callable[[Sequence[int]], str], num_answers: int) -> list[SampleRow]:
    tree, leaves = kept.tree, kept.tree.leaves()
    rewards = np.zeros(len(leaves)) if kept.rewards is None else kept.rewards
    best_first = np.argsort(-rewards, kind="stable")
    chosen = best_first[np.linspace(0, len(leaves) - 1, min(num_answers, len(leaves))).round().astype(int)]
    advantages = None
    if kept.advantages is not None:
        advantages = kept.advantages.values
        if kept.advantages.per_node:
            advantages = kept.advantages.node_means(tree)[leaves]
    return [
        SampleRow(
            sanitize(tree.problem_id, multiline=True),
            sanitize(decode(tree.prompt_ids.tolist()), multiline=True),
            sanitize(decode(tree.trajectory(leaves[i]).token_ids.tolist()), multiline=True),
            None if kept.rewards is None else float(kept.rewards[i]),
            None if advantages is None else float(advantages[i]),
            str(tree.nodes[leaves[i]].stop),
            tree.response_len(leaves[i]),
        )
        for i in chosen.tolist()
    ]
