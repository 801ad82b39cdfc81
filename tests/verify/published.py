"""Pairs of a response and a ground truth from published sets; skip the test where a set is absent."""

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.real_data import real_records

Pairs = list[tuple[str, str]]

CASES = Path(__file__).with_name("cases")
PROJECTS = ("math_verify", "mario_eval", "nemo_skills", "olympiadbench", "hendrycks_math")
"""Whose own test pairs are in cases/."""


def gsm8k_solutions(name: str) -> Pairs:
    """The reference solutions of a file, each ended by its answer in a box."""
    parts = [record["answer"].rpartition("####") for record in real_records(name)]
    return [(f"{solution}\n\\boxed{{{answer.strip()}}}", answer.strip()) for solution, _, answer in parts]


def math500_solutions() -> Pairs:
    """The reference solutions of MATH-500, which hold a box, and its answers."""
    return [(record["solution"], record["answer"]) for record in real_records("math500.jsonl")]


def shuffled(pairs: Pairs, seed: int) -> Pairs:
    """Every response with the ground truth of another problem, drawn at random."""
    answers = [answer for _, answer in pairs]
    random.Random(seed).shuffle(answers)
    return [(response, answer) for (response, _), answer in zip(pairs, answers, strict=True)]


Case = dict[str, Any]


def answer_cases() -> dict[str, list[Case]]:
    """By kind: what `answer` is, a `response`, and whether a careful teacher calls it `correct`."""
    by_kind = defaultdict(list)
    for case in read_cases("answers"):
        by_kind[case["kind"]].append(case)
    return dict(by_kind)


def read_cases(name: str) -> list[Case]:
    """The rows of a file in cases/; its README says what they hold."""
    lines = (CASES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
