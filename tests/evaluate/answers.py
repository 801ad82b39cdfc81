"""Answers to keep and to judge."""

from typing import Any

from treepo.evaluate.records import AnswerRecord

TRUE = AnswerRecord(
    model="m",
    setting="b=2",
    dataset="aime",
    problem="aime.jsonl:1",
    sample=0,
    prompt="6 times 7?",
    ground_truth="42",
    response="It is \\boxed{42}.",
    extracted_answer="42",
    vote="42",
    correct=1.0,
    outcome="graded",
    num_tokens=7,
    stop="eos",
    seed=2**62 + 1,
)


def answers(problem: int, count: int = 2, **fields: Any) -> list[AnswerRecord]:
    """Right answers to one problem, or whatever else `fields` makes of them."""
    kept = {name: getattr(TRUE, name) for name in TRUE.__dataclass_fields__} | {"problem": f"p:{problem}"} | fields
    return [AnswerRecord(**kept | {"sample": sample}) for sample in range(count)]
