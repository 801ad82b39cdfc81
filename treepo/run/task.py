"""From settings to a task: its problems, and the verifier that judges the responses."""

import logging
from functools import partial

from treepo.config.schema import Config
from treepo.data.conversations import Prompt, own_prefill, own_system
from treepo.data.datasets import Dataset, LoadedDatasets, load_datasets, split_train_eval
from treepo.data.problem import AnswerFormat, Task
from treepo.data.prompts import PromptEncoder
from treepo.data.sources import parse_source
from treepo.errors import SettingError
from treepo.model.policy import Policy, decoded
from treepo.model.tokenizer_only import TokenizerOnly
from treepo.run.reasoning import for_prompts
from treepo.tasks.chain_sums import ANSWERS, MAX_PROMPT_TOKENS, ChainSums
from treepo.verify.base import answer_format
from treepo.verify.pool import VerifierPool
from treepo.verify.probe import probe_dataset, sampled
from treepo.verify.task import VerifiedTask, check_verifier

logger = logging.getLogger(__name__)

MAX_NAMED = 10
"""Bad records that the log names."""


def check_trainable(config: Config) -> None:
    """Raise SettingError if there are only datasets to evaluate on."""
    if config.data.is_given and not config.data.train:
        raise SettingError("data.train", "no dataset to train on; treepo eval is for held-out datasets alone")


def build_task(config: Config, policy: Policy | TokenizerOnly, max_model_len: int) -> Task:
    """Build the built-in task, or one of the problems of the given datasets that fit the model and the engine.

    max_model_len: most tokens of a sequence in the engine. Logs what was dropped, and what is odd. Raises SettingError
    for a setting that cannot work.
    """
    max_prompt_len = _max_prompt_len(config, policy, max_model_len)
    if not config.data.is_given:
        return _built_in_task(config, policy)
    train, evaluation = _load(config, policy, max_prompt_len)
    if config.data.train and not any(d.problems for d in train):
        raise SettingError("data.train", "all problems are in the evaluation; name others in data.eval")
    if config.data.weights and (empty := [d.name for d in train if not d.problems]):
        raise SettingError("data.weights", f"all problems of {empty[0]!r} are in the evaluation")
    if not evaluation:
        logger.warning("no problem is held out: nothing will be evaluated")
    prompts = (problem.prompt_ids for dataset in (*train, *evaluation) for problem in dataset.problems)
    verifier = for_prompts(config.verifier, prompts, partial(decoded, policy.tokenizer))
    pool = VerifierPool(verifier, config.verifier_pool)
    task = VerifiedTask(train, evaluation, config.data.weights, config.train.seed, pool=pool)
    try:
        for dataset in train:
            _probe(pool, dataset, "training")
        for dataset in evaluation:
            _probe(pool, dataset, "evaluation")
    except BaseException:
        task.close()
        raise
    return task


def _built_in_task(config: Config, policy: Policy | TokenizerOnly) -> ChainSums:
    if not isinstance(policy.tokenizer.bos_token_id, int):
        raise SettingError("data.train", "the built-in task needs a tokenizer with a bos token; give datasets")
    for name in ("verifier", "prompt"):
        if getattr(config, name) != getattr(Config(), name):
            raise SettingError(name, "the built-in task has its own; give datasets (data.train, data.eval)")
    for name in config.data.own_fields:
        message = "the built-in task has no records; give datasets (data.train, data.eval)"
        raise SettingError(f"data.{name}", message, getattr(config.data, name))
    return ChainSums(policy.tokenizer, config.train.seed)


def _probe(pool: VerifierPool, dataset: Dataset, use: str) -> None:
    sample = sampled(dataset.problems)
    check_verifier(pool, [p.ground_truth for p in sample], dataset.name, [p.columns for p in sample])
    probe_dataset(pool, dataset, use)


def answers_of(config: Config) -> AnswerFormat:
    """How answers are written in the task that `build_task` would build."""
    return answer_format(config.verifier) if config.data.is_given else ANSWERS


def _max_prompt_len(config: Config, policy: Policy | TokenizerOnly, max_model_len: int) -> int:
    response = config.tree.max_response_tokens
    room = min(config.data.max_prompt_len, max_model_len - response)
    if policy.max_len is not None:
        room = min(room, policy.max_len - response)
    if room < (1 if config.data.is_given else MAX_PROMPT_TOKENS):
        raise SettingError(
            "tree",
            f"responses of {response} tokens (depth x segment_len, or max_response_len) leave no room for a prompt in "
            f"the model's {policy.max_len} positions or the engine's {max_model_len} tokens (engine.max_cache_tokens, "
            f"vllm.max_model_len, or the servers' max-model-len)",
        )
    return room


def _load(
    config: Config, policy: Policy | TokenizerOnly, max_prompt_len: int
) -> tuple[tuple[Dataset, ...], tuple[Dataset, ...]]:
    """(training datasets, evaluation datasets)."""
    settings = config.data
    sources = *settings.train, *settings.eval
    if settings.own_fields and all(parse_source(source, "data").format for source in sources):
        name = settings.own_fields[0]
        raise SettingError(f"data.{name}", "is for datasets that name no format, and all do", getattr(settings, name))
    encoder = config.prompt.encoder(policy.tokenizer)
    loaded = {"data.train": LoadedDatasets(()), "data.eval": LoadedDatasets(())}
    given = {"data.train": settings.train, "data.eval": settings.eval}
    for name, other in (("data.train", "data.eval"), ("data.eval", "data.train")):
        if given[name]:
            counts = _PromptCounts(encoder)
            loaded[name] = load_datasets(
                given[name],
                settings,
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
