"""Whether answers are right, decided in processes that can be killed."""

from treepo.data.problem import Outcome, Verdict
from treepo.errors import StartError
from treepo.verify.base import Checker
from treepo.verify.math import MathChecker
from treepo.verify.pool import CheckerPool, PoolSettings
from treepo.verify.verifiers import ChoiceChecker, ExactChecker, FunctionChecker, NumericChecker

__all__ = [
    "Checker",
    "CheckerPool",
    "ChoiceChecker",
    "ExactChecker",
    "FunctionChecker",
    "MathChecker",
    "NumericChecker",
    "Outcome",
    "PoolSettings",
    "StartError",
    "Verdict",
]
