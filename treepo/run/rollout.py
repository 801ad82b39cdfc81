"""From settings to what grows trees: the engine and the sampler over it."""

from treepo.config.schema import Config
from treepo.data.problem import Task
from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.engine.base import Engine
from treepo.errors import SettingError
from treepo.grow.builder import GrowthRules
from treepo.grow.sampler import TreeSampler
from treepo.model.policy import Policy
from treepo.run.engine import build_engine, check_align
from treepo.run.policy import autocast_of
from treepo.run.task import answers_of
from treepo.verify.task import VerifiedTask


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
        autocast=autocast_of(config),
        recompute_old_logprobs=config.train.recompute_old_logprobs,
        trust_remote_code=config.model.trust_remote_code,
        processes=processes,
    )


def build_sampler(config: Config, policy: Policy, engine: Engine) -> TreeSampler:
    """The sampler that grows trees as the settings say."""
    rules = GrowthRules(
        shape=config.tree,
        initial_fork=config.initial_fork,
        branching=config.branching,
        fallback=config.fallback,
        stopping=config.stopping,
        decode=policy.decode,
        answers=answers_of(config),
    )
    return TreeSampler(engine, rules, config.engine.sampling_params)


def close_parts(engine: Engine, task: Task | None = None) -> None:
    """Close an engine and, if there is one, a task with the processes of its verifier."""
    try:
        engine.close()
    finally:
        if isinstance(task, VerifiedTask):
            task.close()
