"""From settings to the sampler: the rules by which trees grow, over turns in an environment, and who plans them."""

from collections.abc import Callable
from typing import Any

from treepo.config.schema import Config
from treepo.data.problem import AnswerFormat, Decode
from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.engine.base import Engine
from treepo.envs.chat import ChatTurns
from treepo.grow import GrowthRules, Planned, TreeSampler, TurnRules
from treepo.model.policy import Policy
from treepo.plan.running import PlannedSampler, RunningPlanner


def turn_rules(config: Config, policy: Policy, given: Callable[[], Any] | None = None) -> TurnRules | None:
    """How paths go on after a turn, if there is an environment; given: the factory of a program."""
    settings = config.environment
    if not settings.is_given:
        return None
    max_prompt_len = config.data.max_prompt_len
    if policy.max_len is not None:
        longest = config.tree.max_response_tokens + settings.max_observed_tokens
        max_prompt_len = min(max_prompt_len, policy.max_len - longest)
    tools = settings.tool_set()
    if tools is not None:
        tools.load()
    chat = ChatTurns(policy.tokenizer, config.prompt, () if tools is None else tools.schemas)
    return TurnRules(
        factory=settings.load(given) if tools is None else tools.environments(policy.tokenizer),
        chat=chat,
        decode=None if tools is None else chat.marked_text,
        max_turns=settings.max_turns,
        max_observed_tokens=settings.max_observed_tokens,
        max_prompt_len=max_prompt_len,
        num_workers=settings.num_workers,
        timeout_s=settings.timeout_s,
    )


def growth_rules(config: Config, decode: Decode, answers: AnswerFormat, turns: TurnRules | None = None) -> GrowthRules:
    """The rules by which trees grow as the settings say."""
    return GrowthRules(
        shape=config.tree,
        initial_fork=config.initial_fork,
        branching=config.branching,
        fallback=config.fallback,
        stopping=config.stopping,
        decode=decode,
        answers=answers,
        turns=turns,
    )


def build_sampler(
    config: Config,
    policy: Policy,
    engine: Engine,
    answers: AnswerFormat,
    processes: DistContext = SINGLE_PROCESS,
    environment: Callable[[], Any] | None = None,
) -> TreeSampler:
    """The sampler that grows trees as the settings say. answers: how answers are written, as a task says. environment:
    the factory of a program."""
    rules = growth_rules(config, policy.decode, answers, turn_rules(config, policy, environment))
    if isinstance(config.branching, Planned):
        seed, count = config.train.seed, config.train.prompts_per_step
        planner = RunningPlanner(rules, config.branching, config.credit, seed, count, processes)
        return PlannedSampler(engine, planner, config.engine.sampling_params)
    return TreeSampler(engine, rules, config.engine.sampling_params)


def planner_of(sampler: TreeSampler) -> RunningPlanner | None:
    """What chooses the shape of a sampler's trees, if anything does."""
    return sampler.planner if isinstance(sampler, PlannedSampler) else None
