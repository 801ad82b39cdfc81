"""The interface of verifiers: a response and the ground truth in, a verdict out."""

from typing import Protocol

from treepo.data.problem import Verdict


class Verifier(Protocol):
    """Judges a response by the known answer. A frozen dataclass whose fields can be written as JSON.

    It is called in a worker process, which ends it at a limit. Where it has a method `load()`, a worker calls that once
    before the first response, outside the time limit: the place for slow imports, and for ValueErrors that name a
    setting which cannot work.
    """

    def __call__(self, response: str, answer: str) -> Verdict:
        """Return the verdict on a response, which is untrusted text of any length; an exception becomes CRASHED."""
        ...

    def example_response(self, answer: str) -> str:
        """Return a response that gives `answer` and must be judged right."""
        ...
