"""From settings to the datasets of a run, split into what is trained on and what is held out."""

import logging
from collections.abc import Mapping
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from treepo.config.schema import Config, DataSettings
from treepo.data.conversations import Prompt, own_prefill, own_system
from treepo.data.datasets import AnyDataset, Dataset, LoadedDatasets, beginning, load_datasets, split_train_eval
from treepo.data.endless import EndlessDataset
from treepo.data.locations import Records
from treepo.data.problem import Problem
from treepo.data.prompts import PromptEncoder
from treepo.data.sources import parse_source
from treepo.errors import SettingError
from treepo.utils.numeric import derive_seed
from treepo.utils.text import pluralize
from treepo.verify.verifiers import NoVerifier

logger = logging.getLogger(__name__)

MAX_NAMED = 10
"""Bad records that the log names."""

NUM_TRIED = 16
"""Problems of a dataset without an end that are made to see how many are passed over."""


def load_split(
    config: Config, tokenizer: PreTrainedTokenizerBase, max_prompt_len: int, records: Mapping[str, Records]
) -> tuple[tuple[AnyDataset, ...], tuple[Dataset, ...]]:
    """(training datasets, evaluation datasets). Logs what was dropped, and prompts that come in their own shape.

    records: rows that a program handed over, by what stands for them in the settings. Raises SettingError.
    """
    settings = config.data
    train, evaluation = ([records.get(s, s) for s in given] for given in (settings.train, settings.eval))
    named = [source for source in (*train, *evaluation) if isinstance(source, str)]
    if settings.own_fields and named and all(parse_source(source, "data").format for source in named):
        name = settings.own_fields[0]
        raise SettingError(f"data.{name}", "is for datasets that name no format, and all do", getattr(settings, name))
    tools = config.environment.tool_set()
    encoder = config.prompt.encoder(tokenizer, tools.schemas if tools else ())
    loaded = {"data.train": LoadedDatasets(()), "data.eval": LoadedDatasets(())}
    given = {"data.train": train, "data.eval": evaluation}
    eval_seed = derive_seed(settings.eval_seed, "eval")
    form = _without_answers(settings) if isinstance(config.verifier, NoVerifier) else settings
    for name, other in (("data.train", "data.eval"), ("data.eval", "data.train")):
        if given[name]:
            counts = _PromptCounts(encoder)
            loaded[name] = load_datasets(
                given[name],
                form,
                counts.encode,
                max_prompt_len,
                name,
                given[other],
                skip_bad=settings.on_bad_record == "skip",
                keep_repeats=name == "data.eval",
                seed=eval_seed if name == "data.eval" else derive_seed(config.train.seed, "train"),
                endless_size=settings.eval_size if name == "data.eval" else 0,
            )
            counts.log(name)
    for name, found in loaded.items():
        _log_dropped(name, found, max_prompt_len)
        empty = [d.name for d in found.datasets if isinstance(d, Dataset) and not d.problems]
        if empty and len(empty) == len(found.datasets):
            raise SettingError(name, f"no problem has at most {max_prompt_len} prompt tokens")
        if empty and settings.weights:
            raise SettingError(name, f"no problem of {empty[0]!r} has at most {max_prompt_len} prompt tokens")
    held_out = [d for d in loaded["data.eval"].datasets if isinstance(d, Dataset)]
    train_sets = loaded["data.train"].datasets
    split = split_train_eval(train_sets, held_out, eval_seed=eval_seed, eval_size=settings.eval_size)
    for dataset in split[0]:
        if isinstance(dataset, EndlessDataset):
            dataset.log_passed_over(NUM_TRIED)
    return split


def first_problem(config: Config, tokenizer: PreTrainedTokenizerBase) -> Problem:
    """The first problem of the datasets, to look at. Raises SettingError."""
    train, evaluation = load_split(config, tokenizer, config.data.max_prompt_len, {})
    (problem,) = beginning((train or evaluation)[0], 1).problems
    return problem


def _log_dropped(setting: str, found: LoadedDatasets, max_prompt_len: int) -> None:
    if found.bad_records:
        named = "; ".join(found.bad_records[:MAX_NAMED]) + ("; ..." if found.bad_records[MAX_NAMED:] else "")
        logger.warning("%s: %s skipped: %s", setting, pluralize(len(found.bad_records), "bad record"), named)
    if found.num_too_long:
        num_fitting = sum(len(d.problems) for d in found.datasets if isinstance(d, Dataset))
        dropped = f"{found.num_too_long} of {num_fitting + found.num_too_long}"
        logger.warning("%s: %s problems dropped: prompts of more than %d tokens", setting, dropped, max_prompt_len)
    if found.num_duplicates:
        dropped = pluralize(found.num_duplicates, "problem")
        logger.warning("%s: %s dropped: duplicates in the same dataset", setting, dropped)


def _without_answers(settings: DataSettings) -> DataSettings:
    """The format of records whose known answers nobody asks for."""
    is_named = settings.answer_field != DataSettings().answer_field
    return settings if is_named else replace(settings, answer_field="", answer_after="", answer_in_box=False)


class _PromptCounts:
    """Encodes prompts, and counts those that the settings of [prompt] do not shape."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self.encoder = encoder
        self.num_prompts, self.num_templated, self.num_own_system, self.num_own_prefill = 0, 0, 0, 0

    def encode(self, prompt: Prompt) -> list[int]:
        """The token ids of a prompt."""
        self.num_prompts += 1
        self.num_templated += self.encoder.is_templated(prompt)
        self.num_own_system += own_system(prompt) is not None
        self.num_own_prefill += own_prefill(prompt) is not None
        return self.encoder(prompt)

    def log(self, setting: str) -> None:
        """Say once how many prompts come in their own shape."""
        template = self.encoder.template
        if self.num_templated:
            logger.warning(
                "%s: %d of %d prompts already hold special tokens of the chat template: they are used as they are, and "
                "the settings of [prompt] do nothing for them",
                setting,
                self.num_templated,
                self.num_prompts,
            )
        if self.num_own_system and template.system:
            message = "%s: %d of %d prompts have a system turn of their own, which is used instead of prompt.system"
            logger.warning(message, setting, self.num_own_system, self.num_prompts)
        if self.num_own_prefill and template.prefill:
            message = "%s: %d of %d prompts end in a turn of the assistant, which is used instead of prompt.prefill"
            logger.warning(message, setting, self.num_own_prefill, self.num_prompts)
