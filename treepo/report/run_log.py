"""The files that a run appends to: metrics.jsonl and samples.jsonl."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from treepo.report.trees import KeptTree
from treepo.utils.files import open_plain, read_plain
from treepo.utils.io import replace_lines
from treepo.utils.text import sanitize

Metrics = dict[str, float]


@dataclass(frozen=True)
class MetricsLog:
    """Appends to and reads one metrics.jsonl."""

    path: Path

    def append(self, step: int, metrics: Metrics) -> None:
        """Write the object of one step; it is on disk when this returns."""
        with open_plain(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | metrics) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Metrics]:
        """All objects, oldest first."""
        return [json.loads(line) for line in read_plain(self.path).decode("utf-8").splitlines()]

    def cut(self, last_step: int) -> None:
        """Drop the objects of later steps, and a line that was not written to its end.

        Raises ValueError unless one object is left for each step up to `last_step`, from 0.
        """
        lines = read_plain(self.path).splitlines(keepends=True) if self.path.exists() else []
        kept = lines[: last_step + 1]
        if [_step_of(line) for line in kept] != list(range(last_step + 1)):
            raise ValueError(f"resume: {str(self.path)!r} lacks a line for a step before {last_step + 1}")
        replace_lines(self.path, kept)


def _step_of(line: bytes) -> int | None:
    """The step of a whole line, or None."""
    try:
        read = json.loads(line)
    except ValueError:
        return None
    return read.get("step") if isinstance(read, dict) and line.endswith(b"\n") else None


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
    """Write one JSON object per sample."""
    with open_plain(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps({"step": step} | asdict(sample)) + "\n" for sample in samples)


def cut_samples(path: Path, last_step: int) -> None:
    """Drop the samples of later steps, and a line that was not written to its end, when a run is resumed."""
    if not path.exists():
        return
    lines = read_plain(path).splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] <= last_step]
    replace_lines(path, kept)


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
