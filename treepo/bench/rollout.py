"""`treepo bench rollout`: trees, sequential sampling and a plain transformers loop on the same model and prompts."""

import dataclasses
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from statistics import median

from transformers import PreTrainedModel

from treepo.bench.common import Bench, check_length, load_or_make, median_ratio, random_problems, time_interleaved
from treepo.bench.rollout_variants import PlainVariant, RolloutVariant, TreeVariant, tree_rules
from treepo.bench.settings import RolloutBenchConfig
from treepo.data.problem import Problem
from treepo.engine.base import Engine
from treepo.errors import SettingError
from treepo.grow.builder import GrowthRules
from treepo.model.policy import Policy
from treepo.report.bench_results import RolloutMeasurement, RolloutStats, RolloutWorkload
from treepo.run.engine import build_engine, check_vllm_settings
from treepo.run.model_path import find_base_model
from treepo.run.parts import close_parts
from treepo.tasks.base import ANSWERS
from treepo.tasks.chain_sums import ChainSums
from treepo.utils import ProgressCallback

SEQUENTIAL = "sequential"
"""The baseline: the variant that all others are compared with."""


@dataclass(frozen=True)
class RolloutCase:
    """Variants that sample the same number of trajectories, `width` per problem, of the same number of tokens."""

    width: int
    response_len: int
    variants: list[RolloutVariant]


@dataclass(frozen=True, eq=False)
class RolloutBench(Bench[RolloutCase, RolloutWorkload]):
    """`treepo bench rollout`. plain_model: a copy of the policy's model for the plain loop."""

    plain_model: PreTrainedModel
    engine: Engine
    problems: Sequence[Problem]

    def cases(self) -> list[RolloutCase]:
        """One per width and response length of the grid: the plain loops, sequential sampling, the trees."""
        return [RolloutCase(width, n, self._variants(width, n)) for width, n in self.config.grid.workloads()]

    def _variants(self, width: int, response_len: int) -> list[RolloutVariant]:
        settings, temperature, decode = self.config.bench, self.config.engine.temperature, self.policy.decode
        rules = {SEQUENTIAL: GrowthRules.star(width, response_len, decode, ANSWERS)}
        for shape, fork in self.config.grid.trees(width, response_len):
            aligned = f" a{shape.align}" if shape.align > 1 else ""
            name = f"tree {shape.depth}x{shape.segment_len} k{fork.low} b{shape.num_children}{aligned}"
            rules[name] = tree_rules(shape, fork, decode, answers_end=settings.answers_end)
        eos_ids = _eos_ids(self.config, self.policy)
        return [
            *(
                PlainVariant(
                    f"plain {n}", self.problems, temperature, self.plain_model, width, response_len, eos_ids, n
                )
                for n in settings.plain_batches
            ),
            *(
                TreeVariant(name, self.problems, temperature, self.policy.model, self.engine, own, settings.seed)
                for name, own in rules.items()
            ),
        ]

    def measure(self, case: RolloutCase, progress: ProgressCallback) -> RolloutWorkload:
        seconds = time_interleaved(case.variants, self.config.bench.repeats, progress)
        measured = [RolloutMeasurement(v.name, s, v.counts()) for v, s in zip(case.variants, seconds, strict=True)]
        sequential = next(m for m in measured if m.name == SEQUENTIAL)
        stats = tuple(compare(m, sequential) for m in measured)
        return RolloutWorkload(len(self.problems), case.width, case.response_len, stats)

    def close(self) -> None:
        close_parts(self.engine)


def compare(measurement: RolloutMeasurement, sequential: RolloutMeasurement) -> RolloutStats:
    """The statistics of one variant; all ratios of sequential sampling to itself are 1."""
    counts, base = measurement.counts, sequential.counts
    typical = median(measurement.seconds)
    forwarded = counts.num_decoded + counts.num_prefilled
    ideal = counts.num_total / counts.num_decoded
    with_prompts = (base.num_decoded + base.num_prefilled) / base.num_total * counts.num_total / forwarded
    share = counts.num_trajectories / base.num_trajectories
    ratio = share * median_ratio(sequential.seconds, measurement.seconds)
    return RolloutStats(
        **vars(measurement),
        trajectories_per_s=counts.num_trajectories / typical,
        total_per_s=counts.num_total / typical,
        decoded_per_s=counts.num_decoded / typical,
        forwarded_per_s=forwarded / typical,
        distinct_ratio=counts.num_distinct / counts.num_total,
        ideal=ideal,
        ideal_with_prompts=with_prompts,
        over_sequential=ratio,
        achieved=ratio / ideal,
    )


def prepare_bench(config: RolloutBenchConfig, progress: ProgressCallback) -> RolloutBench:
    """Load or make model, prompts and engine.

    progress: called while the built-in task's base model is made. Raises SettingError for a setting that cannot work.
    """
    answers_end, model = config.bench.answers_end, config.model
    if answers_end and not model.path:
        model = dataclasses.replace(model, path=find_base_model(progress))
    response_len = max(length for _, length in config.grid.workloads())
    policy = load_or_make(model, config.architecture, config.prompts.max_len + response_len, config.bench.seed)
    if not answers_end:
        problems = random_problems(config.prompts, policy.model.config.vocab_size, config.bench.seed)
    elif isinstance(policy.tokenizer.bos_token_id, int):
        problems = ChainSums(policy.tokenizer, config.bench.seed).training_problems(0, config.prompts.count)
    else:
        raise SettingError("bench.answers_end", "the built-in task's problems need a tokenizer with a bos token")
    needed = max(len(p.prompt_ids) for p in problems) + response_len
    check_length(policy, needed, "grid")
    # A copy, so that nothing that the engine does to its model affects the plain loop.
    plain_model = deepcopy(policy.model)
    plain_model.set_attn_implementation("sdpa")
    engine = _build_engine(config, policy, needed)
    return RolloutBench(
        config, policy, "base model" if answers_end else "random weights", plain_model, engine, problems
    )


def _build_engine(config: RolloutBenchConfig, policy: Policy, max_model_len: int) -> Engine:
    if config.engine.kind == "vllm":
        for align in config.grid.aligns:
            check_vllm_settings("grid.aligns", align, config.vllm, policy.model.device.type)
    engine = build_engine(
        policy,
        config.engine,
        vllm=config.vllm,
        servers=config.servers,
        max_model_len=max_model_len,
        eos_ids=_eos_ids(config, policy),
        trust_remote_code=config.model.trust_remote_code,
    )
    if max_model_len > engine.max_model_len:
        close_parts(engine)
        raise SettingError(
            "grid",
            f"prompts and responses of {max_model_len} tokens do not fit into the engine's {engine.max_model_len} "
            "(engine.max_cache_tokens, vllm.max_model_len, or the servers' max-model-len)",
        )
    return engine


def _eos_ids(config: RolloutBenchConfig, policy: Policy) -> tuple[int, ...]:
    """The tokens that end an answer; none if all answers are to have the same length."""
    return policy.eos_ids if config.bench.answers_end else ()
