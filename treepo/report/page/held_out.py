"""Answers to the same held-out problems at every evaluation, from samples.jsonl."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from treepo.report.page.series import short, spread
from treepo.report.run_log import is_number

Json = dict[str, Any]

CHARACTERS = 400_000
"""Of a page for the held-out answers of all its runs."""

MAX_RESPONSE = 4000
"""Characters of a response that are shown."""

MAX_STEPS = 12
"""Evaluations of a run that are shown at most."""


def held_out_json(samples: Iterable[Mapping[str, Any]], budget: int = CHARACTERS) -> Json:
    """{steps, problems, note}: of each problem {problem, question, ground_truth, answers}, an answer per step or None.

    samples: the objects of samples.jsonl, by whomever they were written. Steps are left out at even distances, never
    the first and the last; then problems, within `budget` characters.
    """
    answers: dict[str, dict[int, Json]] = {}
    for sample in samples:
        step, problem = sample.get("step"), sample.get("problem")
        if sample.get("split") == "eval" and type(step) is int and 0 <= step < 2**53 and isinstance(problem, str):
            answers.setdefault(problem, {})[step] = dict(sample)
    every = sorted({step for own in answers.values() for step in own})
    steps = spread(every, MAX_STEPS)
    problems: list[Json] = []
    left = budget
    for problem, own in answers.items():
        shown = _problem_json(problem, own, steps)
        left -= _size(shown)
        if left < 0:
            break
        problems.append(shown)
    notes = [f"{len(steps)} of {len(every)} evaluations"] if len(steps) < len(every) else []
    notes += [f"{len(problems)} of {len(answers)} problems"] if len(problems) < len(answers) else []
    return {"steps": steps if problems else [], "problems": problems, "note": "; ".join(notes)}


def _problem_json(problem: str, answers: Mapping[int, Json], steps: Sequence[int]) -> Json:
    last = answers[max(answers)]
    return {
        "problem": problem,
        "question": _text(last.get("question")) or problem,
        "ground_truth": _text(last.get("ground_truth")),
        "answers": [_answer_json(answers[step]) if step in answers else None for step in steps],
    }


def _answer_json(sample: Mapping[str, Any]) -> Json:
    response, extracted = _text(sample.get("response")), sample.get("extracted_answer")
    turns = _turns_json(sample.get("turns"))
    return {
        "response": response[:MAX_RESPONSE],
        "num_cut": max(0, len(response) - MAX_RESPONSE),
        "extracted": extracted if isinstance(extracted, str) else None,
        "outcome": _text(sample.get("outcome")),
        "correct": _number(sample.get("correct")),
        "stop": _text(sample.get("stop")),
        "num_tokens": _number(sample.get("num_tokens")),
        "reward": _number(sample.get("reward")),
        "turns": turns,
    }


def _turns_json(turns: object) -> list[Json]:
    """Who wrote what, up to MAX_RESPONSE characters in all; empty without an environment."""
    known = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    shown, left = [], MAX_RESPONSE
    for turn in known:
        text = _text(turn.get("text"))
        shown.append(
            {"role": _text(turn.get("role"))[:100], "text": text[:left], "reward": _number(turn.get("reward"))}
        )
        left -= len(text)
        if left <= 0:
            break
    return shown


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    return short(value) if is_number(value) else None


def _size(problem: Json) -> int:
    answers = [answer for answer in problem["answers"] if answer]
    texts = [turn["text"] for answer in answers for turn in answer["turns"]]
    return len(problem["question"]) + sum(100 + len(text) for text in [*texts, *(a["response"] for a in answers)])
