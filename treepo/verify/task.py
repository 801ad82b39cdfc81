"""A task of datasets whose responses are judged by a pool of verifiers."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from treepo.data.datasets import DatasetTask, beginning
from treepo.data.problem import AnswerFormat, Outcome, Problem, Verdict
from treepo.errors import SettingError, VerifierError, VerifierStartError
from treepo.verify.base import answer_format
from treepo.verify.pool import VerifierPool
from treepo.verify.reward_functions import RewardFunction, check_parameters
from treepo.verify.verifiers import NoVerifier

logger = logging.getLogger(__name__)

TOLERATED_SHARE = 0.1
"""Share of ground truths that may go unrecognised: real datasets hold a few, and a wrong verifier fails on most."""

MIN_LOST = 8
"""Responses that must all time out or crash before the verifier is to blame."""

MAX_SHOWN = 3
MAX_SHOWN_LEN = 80


@dataclass(frozen=True)
class VerifiedTask(DatasetTask):
    """The problems of datasets, with responses judged in worker processes."""

    pool: VerifierPool = field(kw_only=True)

    @property
    def answers(self) -> AnswerFormat:
        return answer_format(self.pool.verifier)

    def verify(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """Return the verdicts, and log the first few crashes; see Task.

        Raises VerifierError if all of at least MIN_LOST responses timed out or crashed, or if a worker that must be
        replaced cannot start again.
        """
        if isinstance(self.pool.verifier, NoVerifier):
            return [self.pool.verifier(response, problem.ground_truth) for problem, response in pairs]
        with self._logged_crashes():
            answers = [(response, problem.ground_truth) for problem, response in pairs]
            verdicts = self.pool.verify(answers, [problem.columns for problem, _ in pairs])
        lost = [v for v in verdicts if v.outcome in {Outcome.TIMEOUT, Outcome.CRASHED}]
        if len(lost) == len(verdicts) >= MIN_LOST:
            first = self.pool.crashes[0] if self.pool.crashes else "the time limit passed"
            raise VerifierError(f"verifier: no verdict on any of {len(lost)} answers: {first}")
        return verdicts

    def are_equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Return what the verifier says of each pair of answers; see Task. A comparison that fails says no."""
        with self._logged_crashes():
            return self.pool.are_equal(pairs)

    def check_functions(self, functions: Sequence[str | RewardFunction], has_environments: bool) -> None:
        """Raise SettingError for a reward function that asks for a column that no problem has, or cannot be found.

        has_environments: whether functions are given environments.
        """
        for datasets in (self.train, self.eval):
            problems = [problem for dataset in datasets for problem in beginning(dataset, 1).problems]
            if problems and functions:
                check_parameters(functions, problems, has_environments)

    @contextmanager
    def _logged_crashes(self) -> Iterator[None]:
        num_known = len(self.pool.crashes)
        try:
            yield
        except VerifierStartError as error:
            raise VerifierError(str(error)) from error
        for crash in self.pool.crashes[num_known:]:
            logger.warning("verifier: %s", crash)

    def close(self) -> None:
        """End the worker processes."""
        self.pool.close()


def check_verifier(
    pool: VerifierPool, ground_truths: Sequence[str], dataset: str, columns: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Judge ground truths as the verifier itself would write them, and log those not judged right.

    columns: of the record of each, if they are known.
    Raises SettingError naming up to three of them if none is judged right, or if several and more than TOLERATED_SHARE
    are not; and whatever `VerifierPool.verify` raises.
    """
    pairs = [(pool.verifier.example_response(text), text) for text in ground_truths]
    verdicts = pool.verify(pairs, columns or None)
    failed = [
        f"{text[:MAX_SHOWN_LEN]!r}: {'judged wrong' if v.outcome is Outcome.GRADED else v.outcome}"
        for text, v in zip(ground_truths, verdicts, strict=True)
        if v.correct < 1
    ]
    if len(failed) == len(ground_truths) > 0 or len(failed) > max(1, TOLERATED_SHARE * len(ground_truths)):
        crash = f" ({pool.crashes[0]})" if pool.crashes else ""
        raise SettingError(
            "verifier",
            f"{type(pool.verifier).__name__} does not recognise {len(failed)} of {len(ground_truths)} ground truths of "
            f"{dataset!r}: {'; '.join(failed[:MAX_SHOWN])}{crash}",
        )
    for line in failed:
        logger.warning("verifier: a ground truth of %r is not recognised: %s", dataset, line)
