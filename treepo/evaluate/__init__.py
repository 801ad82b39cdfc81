"""How often a policy is right: answers sampled, kept, and what follows from them."""

from treepo.evaluate.accuracy import accuracy
from treepo.evaluate.answering import Answered, grow_in_parts, judge
from treepo.evaluate.estimates import avg_at_k, maj_at_k, pass_at_k
from treepo.evaluate.held_out import HeldOut
from treepo.evaluate.intervals import Estimate, mean_with_interval
from treepo.evaluate.records import AnswerRecord, Cost, ProblemKey
from treepo.evaluate.results import EstimateSettings, Result, SetResult, results
from treepo.evaluate.store import AnswerStore

__all__ = [
    "AnswerRecord",
    "AnswerStore",
    "Answered",
    "Cost",
    "Estimate",
    "EstimateSettings",
    "HeldOut",
    "ProblemKey",
    "Result",
    "SetResult",
    "accuracy",
    "avg_at_k",
    "grow_in_parts",
    "judge",
    "maj_at_k",
    "mean_with_interval",
    "pass_at_k",
    "results",
]
