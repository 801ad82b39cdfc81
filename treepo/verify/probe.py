"""A look at a dataset's known answers before a run: do they look like answers, and does the verifier know them?"""

import logging
from collections.abc import Iterator, Sequence

from treepo.data.boxes import last_box
from treepo.data.datasets import Dataset
from treepo.data.problem import Outcome, Problem
from treepo.errors import SettingError
from treepo.verify.pool import VerifierPool
from treepo.verify.reasoning_gym import ReasoningGymVerifier
from treepo.verify.task import check_verifier
from treepo.verify.tasksets import TasksetVerifier

logger = logging.getLogger(__name__)

NUM_CHECKED = 16
"""Known answers of a dataset that the verifier has to recognise, spread evenly over it."""

NUM_SCORED = 4
"""Tasks of verifiers that are scored to see that they can be: some ask a judge over the network."""

MAX_SHOWN_LEN = 80

LONG_ANSWER = 150
"""Characters; the longest published answers of the presets have about 200."""

TOLERATED_SHARE = 0.01
"""Share of known answers that may be long or have several lines without a word: real datasets hold a few."""


def sampled(problems: Sequence[Problem]) -> list[Problem]:
    """At most NUM_CHECKED problems, spread evenly over all."""
    count = min(NUM_CHECKED, len(problems))
    return [problems[i * len(problems) // count] for i in range(count)]


def check_datasets(pool: VerifierPool, train: Sequence[Dataset], evaluation: Sequence[Dataset]) -> None:
    """Judge some known answers of each dataset, and log what is odd about them.

    Raises SettingError if there are none, or if the verifier does not recognise them. Problems of reasoning-gym that
    have many answers may come without one, and theirs look as its scorers want them. Of tasks of verifiers, a few are
    scored.
    """
    is_gym = isinstance(pool.verifier, ReasoningGymVerifier)
    for use, datasets in (("training", train), ("evaluation", evaluation)):
        for dataset in datasets:
            if isinstance(pool.verifier, TasksetVerifier):
                check_scoring(pool, dataset)
                continue
            known = [problem for problem in dataset.problems if problem.ground_truth]
            if len(known) < len(dataset.problems) and not is_gym:
                message = (
                    f"{dataset.name!r} has no known answers: name their column (data.answer_field), or give reward "
                    'functions and verifier.use = "NoVerifier"'
                )
                raise SettingError("data.train", message)
            sample = sampled(known)
            columns = [problem.columns for problem in sample]
            check_verifier(pool, [problem.ground_truth for problem in sample], dataset.name, columns)
            if not is_gym:
                probe_dataset(pool, dataset, use)


def check_scoring(pool: VerifierPool, dataset: Dataset) -> None:
    """Score the reply "0" to some tasks of verifiers, whose answers nobody knows.

    Raises SettingError if none of them can be scored.
    """
    sample = sampled(dataset.problems)[:NUM_SCORED]
    verdicts = pool.verify([("0", "")] * len(sample), [problem.columns for problem in sample])
    if sample and not any(verdict.outcome is Outcome.GRADED for verdict in verdicts):
        cause = pool.crashes[0] if pool.crashes else f"{verdicts[0].outcome} (verifier_pool)"
        raise SettingError("verifier", f"no task of {dataset.name!r} can be scored: {cause}")


def probe_dataset(pool: VerifierPool, dataset: Dataset, use: str) -> None:
    """Log what is odd about a dataset's known answers, with the share and the setting that mends it.

    use: what the dataset is for, such as training. The pool must have judged before, so that it knows which columns
    the verifier wants. Raises SettingError if it needs one that a record lacks, and whatever `VerifierPool.verify`
    raises.
    """
    problems, name = dataset.problems, f"{dataset.name!r} ({use})"
    for problem in problems:
        if missing := pool.wanted.missing(problem.columns):
            raise pool.start_error(f"needs the column {missing[0]!r}, which the record of {problem.id} lacks")
    for line in odd_answers([p.ground_truth for p in problems]):
        logger.warning("known answers of %s: %s", name, line)
    sample = sampled(problems)
    if unread := read_as_text_only(pool, sample):
        logger.warning(
            "known answers of %s: %s recognised letter by letter alone by %s, such as %s: the same answer in another "
            "spelling counts as wrong; another verifier may know them (verifier.use), or they are in another field "
            "(data.answer_field) or a part of this one (data.answer_after, data.answer_in_box)",
            name,
            f"{_share(len(unread), len(sample))} of those tried are",
            type(pool.verifier).__name__,
            _shown(unread[0].ground_truth),
        )


def odd_answers(ground_truths: Sequence[str]) -> Iterator[str]:
    """A line for each way in which known answers do not look like answers; each answer counts for the first of them."""
    marked = [text for text in ground_truths if "####" in text]
    boxed = [text for text in ground_truths if "####" not in text and last_box(text) is not None]
    others = [text for text in ground_truths if "####" not in text and last_box(text) is None]
    several_lines = [text for text in others if "\n" in text.strip()]
    long = [text for text in others if "\n" not in text.strip() and len(text) > LONG_ANSWER]
    elsewhere = "if they are solutions, name what comes before the answer (data.answer_after) or another field"
    kinds = (
        (marked, "hold ####", "if the answer follows it, set data.answer_after = '####'", 0.0),
        (boxed, "hold a \\boxed{}", "if the answer is in it, set data.answer_in_box = true", 0.0),
        (several_lines, "have several lines", f"{elsewhere} (data.answer_field)", TOLERATED_SHARE),
        (long, f"have more than {LONG_ANSWER} characters", f"{elsewhere} (data.answer_field)", TOLERATED_SHARE),
    )
    for found, what, remedy, tolerated in kinds:
        if len(found) > tolerated * len(ground_truths):
            yield f"{_share(len(found), len(ground_truths))} {what}, such as {_shown(found[0])}: {remedy}"


def read_as_text_only(pool: VerifierPool, problems: Sequence[Problem]) -> list[Problem]:
    """Those whose ground truth the verifier does not understand, though it recognises the same text.

    Each is compared with an answer of another text, by which the verifier says whether it could read both.
    """
    distinct = list({problem.ground_truth: problem for problem in reversed(problems)}.values())[::-1]
    if len(distinct) < 2:
        return []
    others = [*distinct[1:], distinct[0]]
    unread = _unparsed(pool, list(zip(distinct, others, strict=True)))
    read = [other for problem, other in zip(distinct, others, strict=True) if problem not in unread]
    # One of the two was not understood, which may be the other: most verifiers know a number.
    reference = read[0] if read else Problem("", "", (), "1")
    return _unparsed(pool, [(problem, reference) for problem in unread])


def _unparsed(pool: VerifierPool, pairs: Sequence[tuple[Problem, Problem]]) -> list[Problem]:
    """The first problem of each pair whose two answers are not compared, since one of them is not understood."""
    example = pool.verifier.example_response
    asked = [(example(other.ground_truth), problem.ground_truth) for problem, other in pairs]
    verdicts = pool.verify(asked, [problem.columns for problem, _ in pairs])
    return [pair[0] for pair, v in zip(pairs, verdicts, strict=True) if v.outcome is Outcome.UNPARSED]


def _share(count: int, total: int) -> str:
    return f"{count} of {total} ({100 * count / total:.3g}%)"


def _shown(text: str) -> str:
    return f"{text[:MAX_SHOWN_LEN]!r}{'...' if len(text) > MAX_SHOWN_LEN else ''}"
