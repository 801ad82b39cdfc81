"""Datasets of problems: loading them, splitting them, and serving them step by step."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import islice
from math import ceil

import numpy as np

from treepo.data.columns import as_columns
from treepo.data.conversations import Prompt, own_prefill, question_of
from treepo.data.endless import Encode, EndlessDataset
from treepo.data.formats import RecordFormat
from treepo.data.locations import Records
from treepo.data.problem import Problem, text_key
from treepo.data.readers import raise_error, read_records
from treepo.data.reasoning_gym import GymSource, check_repeatable, open_dataset
from treepo.data.records import detected_format
from treepo.data.sources import PRESETS, Source, dataset_names, labels, parse_source
from treepo.data.tasksets import TasksetSource
from treepo.errors import MissingFieldError, RecordError, SettingError
from treepo.utils.numeric import derive_seed, digest, largest_remainder

CHARS_PER_TOKEN = 100
MIN_LONG = 1_000_000
"""A question of so many characters, and so many for each token that its prompt may have, is not even encoded: it takes
minutes."""

FIELDS_HINT = (
    "; data.prompt_field and data.answer_field say which hold the question and the answer, or a preset does, as in "
    "gsm8k=FILE"
)

MIN_BLOCK = 64
MAX_BLOCK = 10_000


def epoch_indices(seed: int, positions: Iterable[int], size: int) -> list[int]:
    """The index into `size` items at each position of an endless sequence of epochs.

    Each epoch has every item once, in its own order, seeded by (seed, "epoch", epoch).
    """
    assert size > 0, size

    @cache
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng(derive_seed(seed, "epoch", epoch)).permutation(size)

    return [int(order(position // size)[position % size]) for position in positions]


@dataclass(frozen=True)
class Mixture:
    """The dataset of each position of an endless sequence, in proportion to weights.

    Positions come in blocks. After b blocks of B positions each dataset has as many of them as the largest-remainder
    method gives for b x B positions: less than 1 away from weight x positions at the end of a block, and less than a
    block away anywhere. Within a block the order is seeded.
    """

    weights: tuple[float, ...]
    """One positive number per dataset; only their proportions matter."""

    seed: int = 0
    """Seed of the order within the blocks."""

    def __post_init__(self) -> None:
        if not self.weights or not all(0 < weight < float("inf") for weight in self.weights):
            raise SettingError("weights", "must be positive numbers", list(self.weights))
        if min(self.shares) * MAX_BLOCK < 1:
            raise SettingError("weights", f"must each be at least 1/{MAX_BLOCK} of their sum", list(self.weights))

    @property
    def shares(self) -> list[Fraction]:
        """The weights as exact fractions of their sum."""
        weights = [Fraction(weight) for weight in self.weights]
        return [weight / sum(weights) for weight in weights]

    @property
    def block(self) -> int:
        """Positions of a block: enough for every dataset to have one.

        With fewer, a dataset's count after a block could fall below its count before it (the Alabama paradox).
        """
        return max(MIN_BLOCK, ceil(1 / min(self.shares)))

    def assign(self, positions: Iterable[int]) -> list[tuple[int, int]]:
        """For each position, the index of its dataset and the number of that dataset's earlier positions.

        Costs one permutation per block that the positions lie in, wherever they lie.
        """
        size, shares = self.block, self.shares
        block = cache(lambda number: self._assign_block(number, size, shares))
        return [block(position // size)[position % size] for position in positions]

    def _assign_block(self, number: int, size: int, shares: list[Fraction]) -> list[tuple[int, int]]:
        before, after = (largest_remainder(count * size, shares) for count in (number, number + 1))
        counts = [last - first for first, last in zip(before, after, strict=True)]
        datasets = np.repeat(np.arange(len(counts)), counts)
        order = np.random.default_rng(derive_seed(self.seed, "block", number)).permutation(size)
        assigned, seen = [], before
        for index in datasets[order].tolist():
            assigned.append((index, seen[index]))
            seen[index] += 1
        return assigned


@dataclass(frozen=True)
class Dataset:
    """The problems of one source, in its order, all with different ids. name: its name in metrics."""

    name: str
    problems: tuple[Problem, ...]


AnyDataset = Dataset | EndlessDataset


def beginning(dataset: AnyDataset, count: int) -> Dataset:
    """The first `count` problems of a dataset without an end; any other dataset as it is."""
    if isinstance(dataset, Dataset):
        return dataset
    return Dataset(dataset.name, tuple(dataset.problems(range(count))))


@dataclass(frozen=True)
class LoadedDatasets:
    """The datasets of several sources, and how many of their records were dropped.

    num_too_long: problems with more prompt tokens than allowed. num_duplicates: records with the same question as an
    earlier record of the same source. bad_records: where each record is that cannot be used, and why.
    """

    datasets: tuple[AnyDataset, ...]
    num_too_long: int = 0
    num_duplicates: int = 0
    bad_records: tuple[str, ...] = ()


def load_datasets(
    sources: Sequence[str | Source],
    default_format: RecordFormat,
    encode: Encode,
    max_prompt_len: int,
    setting: str = "data.train",
    other_sources: Sequence[str | Source] = (),
    *,
    skip_bad: bool = False,
    keep_repeats: bool = False,
    seed: int = 0,
    endless_size: int = 0,
) -> LoadedDatasets:
    """Load one dataset from each source.

    sources: as in the settings, or rows in memory, whose format is detected. default_format: of sources that name none.
    setting: the one that gave the sources, for errors. other_sources: the run's other sources, whose problems get other
    ids. Ids are LABEL:LINE in JSON lines, LABEL: row ROW elsewhere, and LABEL#ID in a format with an id field, where
    LABEL is the source's name and as many folders before it as tell it from the others. skip_bad: pass over records
    that cannot be used. keep_repeats: keep records with the same question as an earlier one. seed: of problems that are
    made. endless_size: how many are taken of a source without an end; 0: it stays one. Raises SettingError naming the
    setting, file, line and field.
    """
    parsed, others = ([_parsed(s, setting) for s in given] for given in (sources, other_sources))
    all_labels = labels([*parsed, *others])[: len(parsed)]
    for source, label in zip(parsed, all_labels, strict=True):
        if all_labels.count(label) > 1:
            raise SettingError(setting, f"{str(source)!r} is given twice")
    bad: list[RecordError] = []
    max_chars = max(MIN_LONG, CHARS_PER_TOKEN * max_prompt_len)
    loader = _Loader(encode, max_chars, keep_repeats, bad.append if skip_bad else raise_error)
    datasets, num_too_long, num_duplicates = [], 0, 0
    for source, label, name in zip(parsed, all_labels, dataset_names(parsed), strict=True):
        preset = PRESETS.get(source.format)
        forms = (preset.form, *preset.other_forms) if preset else (default_format,)
        num_bad = len(bad)
        try:
            if isinstance(source, GymSource):
                check_repeatable(source.format)
                open_dataset(source.spec, 0)
                endless = EndlessDataset(name, source, seed, encode, max_prompt_len, max_chars)
                datasets.append(Dataset(name, endless.first(endless_size)) if endless_size else endless)
                continue
            if isinstance(source, TasksetSource):
                forms = (RecordFormat(answer_field=""),)
            if isinstance(source, Records):
                forms = (detected_format(source.rows, default_format),)
            problems, dropped = loader.load(source, forms, label, name)
            if not problems:
                reason = f"has {forms[0].only_field!r} in {list(forms[0].only)}"
                if len(bad) > num_bad:
                    reason = f"can be used; {bad[num_bad]}"
                raise RecordError(f"no record of {str(source)!r} {reason}")
        except RecordError as error:
            is_by_settings = isinstance(error, MissingFieldError) and forms == (default_format,)
            raise SettingError(setting, f"{error}{FIELDS_HINT if is_by_settings else ''}") from error
        fitting = tuple(problem for problem in problems if 0 < len(problem.prompt_ids) <= max_prompt_len)
        num_too_long += len(problems) - len(fitting)
        num_duplicates += dropped
        datasets.append(Dataset(name, fitting))
    return LoadedDatasets(tuple(datasets), num_too_long, num_duplicates, tuple(map(str, bad)))


def _parsed(source: str | Source, setting: str) -> Source:
    return parse_source(source, setting) if isinstance(source, str) else source


@dataclass(frozen=True)
class _Loader:
    """How records become problems. max_chars: longer questions get no tokens. on_bad: called with what is wrong with a
    record that cannot be used."""

    encode: Encode
    max_chars: int
    keep_repeats: bool
    on_bad: Callable[[RecordError], None]

    def load(self, source: Source, forms: Sequence[RecordFormat], label: str, name: str) -> tuple[list[Problem], int]:
        """The source's problems, and how many records were dropped for asking what an earlier one asks."""
        problems: list[Problem] = []
        first_key: dict[str, tuple[str, str]] = {}
        seen, num_dropped = set[tuple[str, str]](), 0
        for place, prompt, problem in self._read(source, forms, label, name):
            key = text_key(problem.prompt), own_prefill(prompt) or ""
            if key in seen and not self.keep_repeats:
                num_dropped += 1
                continue
            problem_id = problem.id
            if first_key.get(problem_id, key) != key:
                self.on_bad(RecordError(f"the id {problem_id!r} is that of another question", place))
                continue
            count = 1
            while problem_id in first_key:
                count += 1
                problem_id = f"{problem.id} ({count})"
            is_long = len(problem.prompt) > self.max_chars
            prompt_ids = () if is_long else tuple(self.encode(prompt))
            if not (prompt_ids or is_long):
                self.on_bad(RecordError("the prompt has no tokens", place))
                continue
            seen.add(key)
            first_key[problem_id] = key
            problems.append(replace(problem, id=problem_id, prompt_ids=prompt_ids))
        return problems, num_dropped

    def _read(
        self, source: Source, forms: Sequence[RecordFormat], label: str, name: str
    ) -> Iterator[tuple[str, Prompt, Problem]]:
        """The place of each record that is used, what it asks, and its problem, not encoded yet."""
        for place, record in read_records(source, label, self.on_bad):
            form = next((form for form in forms if form.fits(record)), forms[0])
            try:
                if not form.takes(record):
                    continue
                prompt = form.prompt(record)
                key = f"{label}#{form.id(record)}" if form.id_field else place
                problem = Problem(key, question_of(prompt), (), form.ground_truth(record), name, as_columns(record))
            except RecordError as error:
                self.on_bad(error.at(place))
                continue
            yield place, prompt, problem


def split_train_eval(
    train: Sequence[AnyDataset], evaluation: Sequence[Dataset] = (), *, eval_seed: int = 0, eval_size: int = 0
) -> tuple[tuple[AnyDataset, ...], tuple[Dataset, ...]]:
    """(training datasets, evaluation datasets); without the latter, one problem in ten of each dataset is taken.

    Of a dataset without an end, those are `eval_size` problems that are made from `eval_seed`. A question of the
    evaluation is trained on in no dataset. Empty evaluation datasets are left out; training datasets all stay, since
    weights may belong to them, and may be empty.
    """
    if not evaluation:
        divided = [_divide(d, eval_seed, eval_size) for d in train]
        train, evaluation = [kept for kept, _ in divided], [taken for _, taken in divided]
    held_out = frozenset(text_key(problem.prompt) for d in evaluation for problem in d.problems)
    return tuple(_without(d, held_out) for d in train), tuple(d for d in evaluation if d.problems)


def _divide(dataset: AnyDataset, eval_seed: int, eval_size: int) -> tuple[AnyDataset, Dataset]:
    if isinstance(dataset, EndlessDataset):
        return dataset, Dataset(dataset.name, dataset.reseeded(eval_seed).first(eval_size))
    kept, taken = split_problems(dataset.problems)
    return Dataset(dataset.name, tuple(kept)), Dataset(dataset.name, tuple(taken))


def _without(dataset: AnyDataset, questions: frozenset[str]) -> AnyDataset:
    if isinstance(dataset, EndlessDataset):
        return replace(dataset, held_out=questions)
    return Dataset(dataset.name, tuple(p for p in dataset.problems if text_key(p.prompt) not in questions))


def split_problems(problems: Sequence[Problem]) -> tuple[list[Problem], list[Problem]]:
    """(training, evaluation): one problem in ten, chosen by a hash of its text, is never trained on."""
    chosen = [int.from_bytes(digest(p.prompt), "little") % 10 == 0 for p in problems]
    pairs = list(zip(problems, chosen, strict=True))
    return [p for p, is_eval in pairs if not is_eval], [p for p, is_eval in pairs if is_eval]


@dataclass(frozen=True)
class DatasetTask:
    """Serves problems of datasets for training and evaluation; subclasses judge the responses."""

    train: tuple[AnyDataset, ...]
    """Training datasets with at least one problem in all; with weights, in each."""

    eval: tuple[Dataset, ...]
    """Evaluation datasets, which share no question with the training datasets."""

    weights: tuple[float, ...] = ()
    """How often each training dataset is drawn from; if empty, each epoch has every problem of all datasets once, or,
    where one has no end, all are drawn from alike."""

    seed: int = 0
    """Seed of the order."""

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.train):
            raise SettingError("weights", f"needs a number for each of {len(self.train)} datasets", list(self.weights))
        if self.weights:
            Mixture(self.weights)
            if empty := [d.name for d in self.train if isinstance(d, Dataset) and not d.problems]:
                raise SettingError("weights", f"no problem is left to train on in {empty}")

    @property
    def is_endless(self) -> bool:
        """Whether a training dataset has no end, so that there are no epochs."""
        return any(isinstance(d, EndlessDataset) for d in self.train)

    def training_problems(self, step: int, count: int, start: int | None = None) -> list[Problem]:
        """Return `count` problems of an endless sequence, from position `start` or step x count on; see Task.

        With weights each dataset has its own epochs, seeded by its place among the datasets.
        """
        first = step * count if start is None else start
        positions = range(first, first + count)
        if not self.is_endless and (len(self.train) == 1 or not self.weights):
            problems = [problem for d in self.train if isinstance(d, Dataset) for problem in d.problems]
            return [problems[i] for i in epoch_indices(self.seed, positions, len(problems))]
        weights = self.weights or tuple(float(isinstance(d, EndlessDataset) or bool(d.problems)) for d in self.train)
        assigned = Mixture(weights, self.seed).assign(positions)
        served = []
        for index in range(len(self.train)):
            own = [number for chosen, number in assigned if chosen == index]
            served.append(iter(self._problems_of(index, own)))
        return [next(served[index]) for index, _ in assigned]

    def _problems_of(self, index: int, positions: Sequence[int]) -> list[Problem]:
        """The problems at positions of one training dataset."""
        dataset = self.train[index]
        if isinstance(dataset, EndlessDataset):
            return dataset.problems(positions)
        order = epoch_indices(derive_seed(self.seed, "set", index), positions, len(dataset.problems))
        return [dataset.problems[i] for i in order]

    def eval_problems(self, count: int) -> list[Problem]:
        """Return the first problems of every evaluation dataset, in turns, until there are `count`; see Task."""
        max_len = max((len(d.problems) for d in self.eval), default=0)
        turns = (d.problems[i] for i in range(max_len) for d in self.eval if i < len(d.problems))
        # Not count alone: islice takes no number of any size.
        return list(islice(turns, min(count, sum(len(d.problems) for d in self.eval))))
