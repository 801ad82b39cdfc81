"""From settings to what training, evaluation and sampling share: the policy, the engine, the sampler."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from treepo.config.schema import Config
from treepo.data.locations import Records
from treepo.data.problem import AnswerFormat, Decode, Task
from treepo.distributed import SINGLE_PROCESS, DistContext, resolve_device
from treepo.engine.base import Engine
from treepo.errors import SettingError, UnsupportedAttentionError
from treepo.grow import GrowthRules, Planned, TreeSampler
from treepo.model.adapters import add_adapter
from treepo.model.linear_maps import is_fast_in_bfloat16
from treepo.model.policy import Policy, adopt_policy, load_policy, recompute_activations
from treepo.plan.running import PlannedSampler, RunningPlanner
from treepo.run.engine import build_engine, check_align
from treepo.run.model_path import base_model_path
from treepo.utils import ProgressCallback
from treepo.utils.numeric import derive_seed
from treepo.verify.task import VerifiedTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class HandedOver:
    """What a program gives itself instead of naming it in settings.

    model, tokenizer: loaded ones, which are trained in place. records: rows, by what stands for them in the settings.
    """

    model: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    records: Mapping[str, Records] = field(default_factory=dict)


NOTHING = HandedOver()


def build_policy(
    config: Config, progress: ProgressCallback, device: str | None = None, handed: HandedOver = NOTHING
) -> Policy:
    """The model that is named or handed over, or the built-in task's base model, with adapters if they are trained.

    device: model.device if not given; that of a model that is handed over stays. A model whose attention cannot follow
    a tree runs as transformers runs it, with a warning.
    """
    if handed.model is not None:
        assert handed.tokenizer is not None, "the front door asks for one"
        model = handed.model
        _log_model(type(model).__name__, model.device.type, str(model.dtype).removeprefix("torch."))
        load = partial(adopt_policy, model, handed.tokenizer)
    else:
        path, settings = base_model_path(config, progress), config.model
        device = resolve_device(device or settings.device)
        _log_model(path, device, settings.dtype)
        load = partial(
            load_policy,
            path,
            dtype=settings.dtype,
            device=device,
            revision=settings.revision,
            tokenizer=settings.tokenizer,
            attn_implementation=settings.attn_implementation,
            trust_remote_code=settings.trust_remote_code,
            load_in_4bit=config.lora.load_in_4bit,
        )
    policy, reason = None, ""
    try:
        policy = load()
    except UnsupportedAttentionError as error:
        reason = error.message
    if policy is None:
        # Not while the error is handled: it keeps what was loaded alive.
        policy = load(packable=False)
        logger.warning("nothing is shared: trajectories are sampled and trained one by one, since %s", reason)
    if not policy.eos_ids:
        logger.warning(
            "the model has no end-of-sequence token in its vocabulary (see eos_token_id of generation_config.json and "
            'the eos_token of the tokenizer): answers end at a complete answer, with stopping.answer = "answer", or at '
            "the longest response"
        )
    if config.lora.is_given:
        add_adapter(policy.model, config.lora, derive_seed(config.train.seed, "adapter"))
    if config.train.autocast == "auto" and policy.model.dtype == torch.float32:
        dtype = "float32" if autocast_of(config, policy.model) is None else "bfloat16"
        logger.info('matrix products are computed in %s, which is faster here (train.autocast = "auto")', dtype)
    if config.train.gradient_checkpointing:
        recompute_activations(policy.model)
    return policy


def _log_model(name: str, device: str, dtype: str) -> None:
    threads = f", {torch.get_num_threads()} threads" if device == "cpu" else ""
    logger.info("model %s on %s, %s%s", name, device, dtype, threads)


def autocast_of(config: Config, model: PreTrainedModel) -> torch.dtype | None:
    """The type of the model's matrix products, if it is not that of the weights."""
    if config.train.autocast == "auto":
        is_fast = model.dtype == torch.float32 and is_fast_in_bfloat16(model.device)
        return torch.bfloat16 if is_fast else None
    return torch.bfloat16 if config.train.autocast == "bfloat16" else None


def engine_for(config: Config, policy: Policy, processes: DistContext = SINGLE_PROCESS) -> Engine:
    """The engine of a run; see build_engine. Whoever builds it closes it."""
    if config.engine.kind == "vllm" and processes.world_size > 1:
        raise SettingError("engine.kind", "'vllm' is for one process; several need 'embedded' or 'servers'")
    if config.engine.kind == "vllm":
        check_align("tree.align", config.tree.align, config.vllm.block_size_on(policy.model.device.type))
    return build_engine(
        policy,
        config.engine,
        vllm=config.vllm,
        servers=config.servers,
        max_model_len=config.data.max_prompt_len + config.tree.max_response_tokens,
        eos_ids=policy.eos_ids,
        autocast=autocast_of(config, policy.model),
        recompute_old_logprobs=config.train.recompute_old_logprobs,
        trust_remote_code=config.model.trust_remote_code,
        processes=processes,
    )


def growth_rules(config: Config, decode: Decode, answers: AnswerFormat) -> GrowthRules:
    """The rules by which trees grow as the settings say."""
    return GrowthRules(
        shape=config.tree,
        initial_fork=config.initial_fork,
        branching=config.branching,
        fallback=config.fallback,
        stopping=config.stopping,
        decode=decode,
        answers=answers,
    )


def build_sampler(
    config: Config,
    policy: Policy,
    engine: Engine,
    answers: AnswerFormat,
    processes: DistContext = SINGLE_PROCESS,
) -> TreeSampler:
    """The sampler that grows trees as the settings say. answers: how answers are written, as a task says."""
    rules = growth_rules(config, policy.decode, answers)
    if isinstance(config.branching, Planned):
        planner = RunningPlanner(rules, config.branching, config.credit, config.train.seed, processes)
        return PlannedSampler(engine, planner, config.engine.sampling_params)
    return TreeSampler(engine, rules, config.engine.sampling_params)


def planner_of(sampler: TreeSampler) -> RunningPlanner | None:
    """What chooses the shape of a sampler's trees, if anything does."""
    return sampler.planner if isinstance(sampler, PlannedSampler) else None


def close_parts(engine: Engine, task: Task | None = None) -> None:
    """Close an engine and, if there is one, a task with the processes of its verifier."""
    try:
        engine.close()
    finally:
        if isinstance(task, VerifiedTask):
            task.close()
