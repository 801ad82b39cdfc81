"""Whether a checker recognises the known answers, before a run depends on it."""

from collections.abc import Sequence

from treepo.task.checking.pool import CheckerPool
from treepo.task.checking.verdict import Outcome, Verdict

TOLERATED_SHARE = 0.1
"""Of known answers that are not recognised: real sets hold a few of those, a wrong checker fails on most."""

MOST_SHOWN = 3
LONGEST_SHOWN = 80


def probe(pool: CheckerPool, answers: Sequence[str]) -> list[str]:
    """Ask about known answers as the checker itself would write them; returns a line for each not judged right.

    Raises ValueError naming the checker and up to three answers if none of them is judged right, or if those that are
    not are several and more than TOLERATED_SHARE; and whatever `CheckerPool.check` raises.
    """
    verdicts = pool.check([(pool.checker.written(answer), answer) for answer in answers])
    failed = [_line(answer, said) for answer, said in zip(answers, verdicts, strict=True) if said.correct < 1]
    if len(failed) == len(answers) > 0 or len(failed) > max(1, TOLERATED_SHARE * len(answers)):
        name = type(pool.checker).__name__
        problems = f" ({pool.problems[0]})" if pool.problems else ""
        shown = "; ".join(failed[:MOST_SHOWN])
        raise ValueError(f"{name} does not recognise {len(failed)} of {len(answers)} known answers: {shown}{problems}")
    return failed


def _line(answer: str, verdict: Verdict) -> str:
    reason = "judged wrong" if verdict.outcome is Outcome.CHECKED else verdict.outcome
    return f"{answer[:LONGEST_SHOWN]!r}: {reason}"
