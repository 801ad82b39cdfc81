"""From settings to the datasets of a run, split into what is trained on and what is held out."""

import logging
from collections.abc import Mapping
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from treepo.config.schema import Config, DataSettings
from treepo.data.conversations import Prompt, own_prefill, own_system
from treepo.data.datasets import Dataset, LoadedDatasets, load_datasets, split_train_eval
from treepo.data.locations import Records
from treepo.data.prompts import PromptEncoder
from treepo.data.sources import parse_source
from treepo.errors import SettingError
from treepo.verify.verifiers import NoVerifier

logger = logging.getLogger(__name__)

MAX_NAMED = 10
"""Bad records that the log names."""


def load_split(
    config: Config, tokenizer: PreTrainedTokenizerBase, max_prompt_len: int, records: Mapping[str, Records]
) -> tuple[tuple[Dataset, ...], tuple[Dataset, ...]]:
    """(training datasets, evaluation datasets). Logs what was dropped, and prompts that come in their own shape.

    records: rows that a program handed over, by what stands for them in the settings. Raises SettingError.
    """
    settings = config.data
    train, evaluation = ([records.get(s, s) for s in given] for given in (settings.train, settings.eval))
    named = [source for source in (*train, *evaluation) if isinstance(source, str)]
    if settings.own_fields and named and all(parse_source(source, "data").format for source in named):
        name = settings.own_fields[0]
        raise SettingError(f"data.{name}", "is for datasets that name no format, and all do", getattr(settings, name))
    encoder = config.prompt.encoder(tokenizer)
    loaded = {"data.train": LoadedDatasets(()), "data.eval": LoadedDatasets(())}
    given = {"data.train": train, "data.eval": evaluation}
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
            )
            counts.log(name)
    for name, found in loaded.items():
        if found.bad_records:
            named = "; ".join(found.bad_records[:MAX_NAMED]) + ("; ..." if found.bad_records[MAX_NAMED:] else "")
            logger.warning("%s: %d bad records skipped: %s", name, len(found.bad_records), named)
        num_fitting = sum(len(d.problems) for d in found.datasets)
        if found.num_too_long:
            dropped = f"{found.num_too_long} of {num_fitting + found.num_too_long}"
            logger.warning("%s: %s problems dropped: prompts of more than %d tokens", name, dropped, max_prompt_len)
        if found.num_duplicates:
            logger.warning("%s: %d problems dropped: duplicates in the same dataset", name, found.num_duplicates)
        if found.datasets and not num_fitting:
            raise SettingError(name, f"no problem has at most {max_prompt_len} prompt tokens")
        if settings.weights and (empty := [d.name for d in found.datasets if not d.problems]):
            raise SettingError(name, f"no problem of {empty[0]!r} has at most {max_prompt_len} prompt tokens")
    return split_train_eval(loaded["data.train"].datasets, loaded["data.eval"].datasets)


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
