"""How often a policy is right: answers sampled, kept, and what follows from them."""

from treepo.evaluate.accuracy import accuracy
from treepo.evaluate.answer_file import StoreError
from treepo.evaluate.answering import Answered, grow_in_parts, judge
from treepo.evaluate.asked import check_asked, problem_key
from treepo.evaluate.estimates import avg_at_k, maj_at_k, pass_at_k
from treepo.evaluate.held_out import HeldOut
from treepo.evaluate.intervals import Estimate, mean_with_interval
from treepo.evaluate.metering import Meter
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
    "Meter",
    "ProblemKey",
    "Result",
    "SetResult",
    "StoreError",
    "accuracy",
    "avg_at_k",
    "check_asked",
    "grow_in_parts",
    "judge",
    "maj_at_k",
    "mean_with_interval",
    "pass_at_k",
    "problem_key",
    "results",
]
