"""From settings to a task: its problems, and the verifier that judges the responses."""

import logging
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from treepo.config.schema import Config
from treepo.data.datasets import beginning
from treepo.data.locations import Records
from treepo.data.problem import AnswerFormat, Task
from treepo.errors import SettingError
from treepo.model.policy import Policy, decoded
from treepo.model.tokenizer_only import TokenizerOnly
from treepo.run.datasets import load_split
from treepo.run.reasoning import for_prompts
from treepo.tasks.registry import built_in_task, make_task
from treepo.verify import NoVerifier, VerifierPool
from treepo.verify.base import answer_format
from treepo.verify.probe import NUM_CHECKED, check_datasets
from treepo.verify.task import VerifiedTask
from treepo.verify.tasksets import with_tasksets

logger = logging.getLogger(__name__)

NO_RECORDS: Mapping[str, Records] = MappingProxyType({})


def check_trainable(config: Config) -> None:
    """Raise SettingError if there are only datasets to evaluate on, or if a plan could have no shape to choose."""
    if config.data.is_given and not config.data.train:
        raise SettingError("data.train", "no dataset to train on; treepo eval is for held-out datasets alone")
    config.check_planned()


def build_task(
    config: Config, policy: Policy | TokenizerOnly, max_model_len: int, records: Mapping[str, Records] = NO_RECORDS
) -> Task:
    """Build the built-in task, or one of the problems of the given datasets that fit the model and the engine.

    max_model_len: most tokens of a sequence in the engine. records: the rows that a program handed over, by what stands
    for them in the settings. Logs what was dropped, and what is odd. Raises SettingError
    for a setting that cannot work.
    """
    max_prompt_len = _max_prompt_len(config, policy, max_model_len)
    if not config.data.is_given:
        return _built_in_task(config, policy)
    train, evaluation = load_split(config, policy.tokenizer, max_prompt_len, records)
    # Of datasets without an end, what is looked at before the run.
    shown = [beginning(d, NUM_CHECKED) for d in train]
    if config.data.train and not any(d.problems for d in shown):
        raise SettingError("data.train", "all problems are in the evaluation; name others in data.eval")
    if config.data.weights and (empty := [d.name for d in shown if not d.problems]):
        raise SettingError("data.weights", f"all problems of {empty[0]!r} are in the evaluation")
    if not evaluation:
        logger.warning("no problem is held out: nothing will be evaluated")
    prompts = (problem.prompt_ids for dataset in (*shown, *evaluation) for problem in dataset.problems)
    verifier = for_prompts(config.verifier, prompts, partial(decoded, policy.tokenizer))
    verifier = with_tasksets(verifier, (*config.data.train, *config.data.eval))
    pool = VerifierPool(verifier, config.verifier_pool)
    task = VerifiedTask(train, evaluation, config.data.weights, config.train.seed, pool=pool)
    if isinstance(config.verifier, NoVerifier):
        return task
    try:
        check_datasets(pool, shown, evaluation)
    except BaseException:
        task.close()
        raise
    return task


def _built_in_task(config: Config, policy: Policy | TokenizerOnly) -> Task:
    if not isinstance(policy.tokenizer.bos_token_id, int):
        raise SettingError("data.train", "the built-in task needs a tokenizer with a bos token; give datasets")
    for name in ("verifier", "prompt"):
        if getattr(config, name) != getattr(Config(), name):
            raise SettingError(name, "the built-in task has its own; give datasets (data.train, data.eval)")
    for name in config.data.own_fields:
        message = "the built-in task has no records; give datasets (data.train, data.eval)"
        raise SettingError(f"data.{name}", message, getattr(config.data, name))
    return make_task(config.task, policy.tokenizer, config.train.seed)


def answers_of(config: Config) -> AnswerFormat:
    """How answers are written in the task that `build_task` would build."""
    return answer_format(config.verifier) if config.data.is_given else built_in_task(config.task).answer_format


def _max_prompt_len(config: Config, policy: Policy | TokenizerOnly, max_model_len: int) -> int:
    response, observed = config.tree.max_response_tokens, config.environment.num_observed_tokens
    written = f" and {observed} observed ones (environment.max_observed_tokens)" if observed else ""
    room = min(config.data.max_prompt_len, max_model_len - response - observed)
    if policy.max_len is not None:
        room = min(room, policy.max_len - response - observed)
    if room < (1 if config.data.is_given else built_in_task(config.task).max_prompt_tokens):
        raise SettingError(
            "tree",
            f"responses of {response} tokens (depth x segment_len, or max_response_len){written} leave no room for a "
            f"prompt in the model's {policy.max_len} positions or the engine's {max_model_len} tokens "
            f"(engine.max_cache_tokens, vllm.max_model_len, or the servers' max-model-len)",
        )
    return room
