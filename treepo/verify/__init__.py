"""Whether answers are right, decided in processes that can be killed."""

from treepo.data.problem import Outcome, Verdict
from treepo.errors import VerifierStartError
from treepo.verify.base import FinalAnswer, Verifier
from treepo.verify.math import MathVerifier
from treepo.verify.numeric import NumericVerifier
from treepo.verify.pool import VerifierPool, VerifierPoolSettings
from treepo.verify.verifiers import ChoiceVerifier, ExactVerifier, FunctionVerifier

__all__ = [
    "ChoiceVerifier",
    "ExactVerifier",
    "FinalAnswer",
    "FunctionVerifier",
    "MathVerifier",
    "NumericVerifier",
    "Outcome",
    "Verdict",
    "Verifier",
    "VerifierPool",
    "VerifierPoolSettings",
    "VerifierStartError",
]
