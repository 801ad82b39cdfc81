"""Responses and ground truths from published sets and from cases/; skip the test where a set is absent."""

import json
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.real_data import real_records
from tests.verify.respelling import mutated, respelled
from treepo.verify.base import FinalAnswer

Pairs = list[tuple[str, str]]
Case = dict[str, Any]

CASES = Path(__file__).with_name("cases")
BOX = "\\boxed{"
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


def known_answers(minerva: Path | None = None, olympiad: Path | None = None) -> dict[str, list[str]]:
    """The different ground truths of published sets; two of them from files as Qwen2.5-Math ships them."""
    gsm8k = gsm8k_solutions("gsm8k_test.jsonl")[:500]
    found = {"GSM8K": [known for _, known in gsm8k], "MATH-500": [known for _, known in math500_solutions()]}
    if minerva is not None:
        solutions = [json.loads(line)["solution"] for line in minerva.read_text(encoding="utf-8").splitlines()]
        found["Minerva"] = [answer.strip() for answer in map(FinalAnswer().extract, solutions) if answer is not None]
    if olympiad is not None:
        rows = [json.loads(line) for line in olympiad.read_text(encoding="utf-8").splitlines()]
        found["OlympiadBench"] = [row["final_answer"][0].replace("$", "").strip() for row in rows]
    return {name: list(dict.fromkeys(answers)) for name, answers in found.items()}


@dataclass(frozen=True)
class Row:
    """A response, the answer that is known, and whether it is right."""

    group: str
    kind: str
    answer: str
    response: str
    correct: bool


def all_rows(minerva: Path | None = None, olympiad: Path | None = None, every: int = 1) -> list[Row]:
    """The cases, other projects' pairs, and the sets' known answers, all or every n-th, respelled and changed."""
    rows = [
        Row("cases", case["kind"], case["answer"], case["response"], case["correct"]) for case in read_cases("answers")
    ]
    for project in PROJECTS:
        rows += [
            Row(project, case["test"], case["answer"], case["response"], case["correct"])
            for case in read_cases(project)
        ]
    for name, answers in known_answers(minerva, olympiad).items():
        rows += spelling_rows(name, answers[::every])
    return rows


def spelling_rows(name: str, answers: list[str]) -> list[Row]:
    """Every answer as it is, in every other spelling, and changed."""
    rows = []
    for answer in answers:
        spellings = [("as it is", answer, True)]
        spellings += [(rule, given, True) for rule, given in respelled(answer)]
        spellings += [(f"another {change}", given, False) for change, given in mutated(answer)]
        rows += [Row(name, kind, answer, f"\\boxed{{{given}}}", correct) for kind, given, correct in spellings]
    return rows


def disagreements() -> list[str]:
    """A line in Markdown per project and reason why its pairs are judged otherwise, as docs/verifying.md shows them."""
    lines = []
    for project in PROJECTS:
        by_reason = defaultdict(list)
        for case in read_cases(project):
            if "why" in case:
                by_reason[case["why"]].append(case)
        for reason, cases in by_reason.items():
            case = min(cases, key=lambda case: len(case["answer"] + case["response"]))
            # A bar would end the cell.
            shown = f"`{case['answer']}` / `{' '.join(case['response'].split())}`".replace("|", "\\|")
            lines.append(f"| {project} | {reason} | {len(cases)} | {shown} |")
    return lines


def readings() -> list[str]:
    """A line in Markdown per answer that may be read in two ways."""
    lines = []
    for case in read_cases("readings"):
        answer, verdict = case["response"][len(BOX) : -1], "right" if case["correct"] else "wrong"
        lines.append(f"| `{case['answer']}` | `{answer}` | {verdict}: {case['why']} |")
    return lines
