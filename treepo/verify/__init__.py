"""Whether answers are right, decided in processes that can be killed."""

from treepo.data.problem import Outcome, Verdict
from treepo.errors import VerifierStartError
from treepo.verify.base import FinalAnswer, Verifier
from treepo.verify.judge import LLMJudge
from treepo.verify.math import MathVerifier
from treepo.verify.numeric import NumericVerifier
from treepo.verify.pool import VerifierPool, VerifierPoolSettings
from treepo.verify.reasoning_gym import ReasoningGymVerifier
from treepo.verify.reward_model import RewardModel
from treepo.verify.tasksets import TasksetVerifier
from treepo.verify.verifiers import ChoiceVerifier, ExactVerifier, FunctionVerifier, NoVerifier

__all__ = [
    "ChoiceVerifier",
    "ExactVerifier",
    "FinalAnswer",
    "FunctionVerifier",
    "LLMJudge",
    "MathVerifier",
    "NoVerifier",
    "NumericVerifier",
    "Outcome",
    "ReasoningGymVerifier",
    "RewardModel",
    "TasksetVerifier",
    "Verdict",
    "Verifier",
    "VerifierPool",
    "VerifierPoolSettings",
    "VerifierStartError",
]
