"""Whether answers are right, judged in processes that may be killed."""

from treepo.task.checking.checker import Checker
from treepo.task.checking.choice import ChoiceChecker
from treepo.task.checking.errors import StartError
from treepo.task.checking.exact import ExactChecker
from treepo.task.checking.function import FunctionChecker
from treepo.task.checking.math_checker import MathChecker
from treepo.task.checking.numeric import NumericChecker
from treepo.task.checking.pool import CheckerPool
from treepo.task.checking.probe import probe
from treepo.task.checking.settings import PoolSettings
from treepo.task.checking.verdict import Outcome, Verdict

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
    "probe",
]
