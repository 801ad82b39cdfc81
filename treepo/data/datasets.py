"""Datasets of problems: read, split, served step by step."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from treepo.data.formats import RecordFormat
from treepo.data.mixing import Mixture, epoch_indices
from treepo.data.problem import Problem
from treepo.data.readers import read_records
from treepo.data.sources import PRESETS, Source, dataset_names, labels, parse_source
from treepo.utils.rng import derive_seed

Encode = Callable[[str], list[int]]
"""A question to the token ids that the model is conditioned on."""


@dataclass(frozen=True)
class Dataset:
    """The problems of one source, in its order, no two with the same text."""

    name: str
    """What figures by set call it; the problems' `source`."""

    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class LoadedDatasets:
    """What was read, and what was left out."""

    sets: tuple[Dataset, ...]

    num_too_long: int
    """Problems with more prompt tokens than were allowed."""

    num_repeated: int
    """Records whose question another record of the same source had asked before."""


def load_datasets(
    sources: Sequence[str],
    own: RecordFormat,
    encode: Encode,
    max_prompt_len: int,
    setting: str = "data.train",
    beside: Sequence[str] = (),
) -> LoadedDatasets:
    """Read one set from each source.

    own: the format of sources that name none. max_prompt_len: most tokens of a prompt. setting: the one that named the
    sources, for messages. beside: the run's other sources, from whose ids these problems' shall differ. Ids are
    LABEL:LINE in JSON lines, LABEL: row ROW elsewhere, and LABEL#ID in a format with an id field, where LABEL is the
    source's name and as many folders before it as tell it from the others. Raises ValueError naming setting, file, line
    and field for what is not as it should be.
    """
    parsed = [parse_source(source, setting) for source in sources]
    all_labels = labels([*parsed, *(parse_source(source, setting) for source in beside)])[: len(parsed)]
    for source, label in zip(parsed, all_labels, strict=True):
        if all_labels.count(label) > 1:
            raise ValueError(f"{setting}: {str(source)!r} is given twice")
    sets, num_too_long, num_repeated = [], 0, 0
    for source, label, name in zip(parsed, all_labels, dataset_names(parsed), strict=True):
        form = PRESETS[source.format].form if source.format else own
        unencoded, repeated = _first_of_each(_read_problems(source, form, label, name, setting))
        if not unencoded:
            raise ValueError(f"{setting}: no record of {str(source)!r} has {form.only_field!r} in {list(form.only)}")
        _check_ids(unencoded, form, setting)
        problems = [_encoded(problem, encode, setting) for problem in unencoded]
        fitting = tuple(problem for problem in problems if len(problem.prompt_ids) <= max_prompt_len)
        num_too_long += len(problems) - len(fitting)
        num_repeated += repeated
        sets.append(Dataset(name, fitting))
    return LoadedDatasets(tuple(sets), num_too_long, num_repeated)


def _read_problems(source: Source, form: RecordFormat, label: str, name: str, setting: str) -> Iterator[Problem]:
    """The source's problems before they are encoded."""
    try:
        for place, record in read_records(source, label):
            try:
                if form.takes(record):
                    key = f"{label}#{form.id(record)}" if form.id_field else place
                    yield Problem(key, form.question(record), (), form.answer(record), name)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{setting}: {error}") from error


def _first_of_each(problems: Iterator[Problem]) -> tuple[list[Problem], int]:
    """(the first problem of each text, how many others there were)."""
    first: dict[str, Problem] = {}
    num_repeated = 0
    for problem in problems:
        num_repeated += first.setdefault(text_key(problem.prompt), problem) is not problem
    return list(first.values()), num_repeated


def _check_ids(problems: list[Problem], form: RecordFormat, setting: str) -> None:
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise ValueError(f"{setting}: field {form.id_field!r} says {problem.id!r} of two questions")
        seen.add(problem.id)


def _encoded(problem: Problem, encode: Encode, setting: str) -> Problem:
    prompt_ids = tuple(encode(problem.prompt))
    if not prompt_ids:
        raise ValueError(f"{setting}: {problem.id}: the prompt has no tokens")
    return replace(problem, prompt_ids=prompt_ids)


def text_key(text: str) -> str:
    """What is the same for questions that differ in blanks alone."""
    return " ".join(text.split())


def split_train_eval(
    train: Sequence[Dataset], held_out: Sequence[Dataset] = ()
) -> tuple[tuple[Dataset, ...], tuple[Dataset, ...]]:
    """(sets to train on, sets held out); without held-out sets, one problem in ten of each set is held out.

    A question that is held out is trained on in no set. Sets without a held-out problem are left out of those; sets to
    train on all stay, since weights may belong to them, and may be empty.
    """
    if not held_out:
        divided = [(s.name, split_problems(s.problems)) for s in train]
        train = [Dataset(name, tuple(kept)) for name, (kept, _) in divided]
        held_out = [Dataset(name, tuple(held)) for name, (_, held) in divided]
    never_trained_on = {text_key(problem.prompt) for s in held_out for problem in s.problems}
    train = [
        replace(s, problems=tuple(p for p in s.problems if text_key(p.prompt) not in never_trained_on)) for s in train
    ]
    return tuple(train), tuple(s for s in held_out if s.problems)


def split_problems(problems: Sequence[Problem]) -> tuple[list[Problem], list[Problem]]:
    """(train, held out): one problem in ten, chosen by a hash of its text, is never trained on."""
    held_out = [p for p in problems if _hash(p.prompt) % 10 == 0]
    return [p for p in problems if _hash(p.prompt) % 10 != 0], held_out


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class DatasetTask:
    """What to ask when; who says what is right is another's affair."""

    train: tuple[Dataset, ...]
    """Sets to train on, with at least one problem; with weights each of them has one."""

    held_out: tuple[Dataset, ...]
    """Sets to evaluate on, which share no question with those."""

    weights: tuple[float, ...] = ()
    """How often each set is drawn from; if not given every problem comes once in each epoch over all sets."""

    seed: int = 0
    """Of the order."""

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.train):
            raise ValueError(f"weights: {len(self.weights)} numbers for {len(self.train)} sets to train on")
        if self.weights:
            Mixture(self.weights)
            if empty := [s.name for s in self.train if not s.problems]:
                raise ValueError(f"weights: no problem is left to train on in {empty}")

    def training_problems(self, step: int, count: int) -> list[Problem]:
        """Problems step x count .. (step + 1) x count - 1 of an endless sequence; see Task.

        With weights each set has epochs of its own, seeded by its place among the sets.
        """
        positions = range(step * count, (step + 1) * count)
        if len(self.train) == 1 or not self.weights:
            problems = [problem for s in self.train for problem in s.problems]
            return [problems[i] for i in epoch_indices(self.seed, positions, len(problems))]
        asked: list[Problem | None] = [None] * count
        draws = Mixture(self.weights, self.seed).draws(positions)
        for index, s in enumerate(self.train):
            places = [place for place, (drawn, _) in enumerate(draws) if drawn == index]
            seed = derive_seed(self.seed, "set", index)
            order = epoch_indices(seed, (draws[place][1] for place in places), len(s.problems))
            for place, i in zip(places, order, strict=True):
                asked[place] = s.problems[i]
        problems = [problem for problem in asked if problem is not None]
        assert len(problems) == count, "every position is drawn from one set"
        return problems

    def eval_problems(self, count: int) -> list[Problem]:
        """The first problems of every held-out set, taken in turns until there are `count`; see Task."""
        longest = max((len(s.problems) for s in self.held_out), default=0)
        turns = (s.problems[i] for i in range(longest) for s in self.held_out if i < len(s.problems))
        # Not count alone: what islice takes is bounded.
        return list(islice(turns, min(count, sum(len(s.problems) for s in self.held_out))))
