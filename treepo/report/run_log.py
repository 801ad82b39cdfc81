"""The files that a run appends to: metrics.jsonl and samples.jsonl."""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from treepo.envs.transcript import TurnText, transcript
from treepo.errors import SettingError
from treepo.report.trees import Grading, KeptTree
from treepo.utils.files import LOG_BYTES, open_plain, read_plain
from treepo.utils.io import replace_bytes, writing
from treepo.utils.text import sanitize

logger = logging.getLogger(__name__)

Metrics = dict[str, float]


def held_out_score(metrics: Mapping[str, float]) -> float | None:
    """What evaluations are compared by: accuracy, or the reward where nothing is verified; None without one."""
    return metrics.get("eval/avg", metrics.get("eval/reward/mean"))


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


@dataclass(frozen=True, kw_only=True)
class SampleRow:
    """One trajectory of a step, its texts sanitized.

    split: train, or eval for an answer to a held-out problem. reward, advantage: None where there is none, as where an
    environment failed. An estimator with one advantage per node gives that of the last node. correct: the verifier's
    score, 0 to 1, and outcome how it came about; parts: those of the reward by name; extra: what reward functions
    logged of it. What was not graded has None and empty texts. response: what was sampled. turns: who wrote what, where
    there was an environment.
    """

    problem: str
    question: str = ""
    prompt: str = ""
    response: str
    ground_truth: str = ""
    extracted_answer: str | None = None
    outcome: str | None = None
    correct: float | None = None
    reward: float | None = None
    parts: dict[str, float] = field(default_factory=dict, hash=False)
    extra: dict[str, Any] = field(default_factory=dict, hash=False)
    advantage: float | None = None
    stop: str
    num_tokens: int
    split: str = "train"
    turns: list[dict[str, Any]] = field(default_factory=list, hash=False)

    def cells(self) -> dict[str, str | float | int | None]:
        """By column what a table of a tracker shows; one text each for parts of the reward, what was logged, turns."""
        parts = ", ".join(f"{name} {value:.4g}" for name, value in self.parts.items())
        extra = ", ".join(f"{name} {value}" for name, value in self.extra.items())
        turns = "\n".join(f"{turn['role']}: {turn['text']}" for turn in self.turns)
        return asdict(self) | {"parts": parts, "extra": extra, "turns": turns}


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
    tree, leaves, grading, advantages = kept.tree, kept.tree.leaves(), kept.grading, kept.leaf_advantages()
    rewards = np.zeros(len(leaves)) if kept.rewards is None else kept.rewards
    best_first = np.argsort(-rewards, kind="stable")
    chosen = best_first[np.linspace(0, len(leaves) - 1, min(num_answers, len(leaves))).round().astype(int)]
    return [
        SampleRow(
            problem=plain(tree.problem_id),
            prompt=plain(decode(tree.prompt_ids.tolist())),
            response=plain(decode(tree.trajectory(leaves[i]).sampled_ids.tolist())),
            reward=None if kept.rewards is None or np.isnan(kept.rewards[i]) else float(kept.rewards[i]),
            advantage=None if advantages is None else float(advantages[i]),
            stop=str(tree.nodes[leaves[i]].stop),
            num_tokens=tree.response_len(leaves[i]),
            turns=plain_turns(transcript(tree, leaves[i], decode)),
            **({} if grading is None else _graded(grading, i)),
        )
        for i in chosen.tolist()
    ]


def _graded(grading: Grading, leaf: int) -> dict[str, Any]:
    """The fields of a row that say how a leaf was graded."""
    extracted = grading.extracted_answers[leaf]
    return {
        "question": plain(grading.question),
        "ground_truth": plain(grading.ground_truth),
        "extracted_answer": None if extracted is None else plain(extracted),
        "outcome": str(grading.outcomes[leaf]),
        "correct": float(grading.correct[leaf]),
        "parts": {sanitize(name): float(values[leaf]) for name, values in grading.parts.items()},
        "extra": {sanitize(name): plain_value(values[leaf]) for name, values in grading.extra.items()},
    }


def plain_turns(turns: Sequence[TurnText]) -> list[dict[str, Any]]:
    """Turns as JSON has them, their texts sanitized."""
    return [{"role": sanitize(turn.role), "text": plain(turn.text), "reward": turn.reward} for turn in turns]


def plain_value(value: Any) -> Any:
    """A number as it is, a text sanitized."""
    return plain(value) if isinstance(value, str) else value


def plain(text: str) -> str:
    """Untrusted text of several lines, sanitized."""
    return sanitize(text, multiline=True)
