"""The interface of verifiers: a response and the ground truth in, a verdict out."""

from typing import Protocol

from treepo.data.problem import Verdict


class Verifier(Protocol):
    """Judges a response by the ground truth. A frozen dataclass whose fields can be written as JSON.

    It is called in a worker process, which ends it at a limit. Optional methods: `load()`, which each worker calls once
    before the first response and outside the time limit, for slow imports and for SettingErrors about fields that
    cannot work; and those of `AnswerFormat`, which say where in a text an answer ends (without them: a complete box).
    """

    def __call__(self, response: str, ground_truth: str) -> Verdict:
        """Return the verdict on a response, which is untrusted text of any length; an exception becomes CRASHED."""
        ...

    def example_response(self, ground_truth: str) -> str:
        """Return a response that gives the ground truth and must be judged right."""
        ...
