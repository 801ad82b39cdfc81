"""`treepo bench rollout`: trees, sequential sampling and a plain transformers loop on the same model and prompts."""

import dataclasses
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.table import Table
from transformers import PreTrainedModel

from treepo.bench.common import (
    describe_machine,
    describe_model,
    load_or_make,
    make_table,
    median_ratio,
    random_problems,
    time_interleaved,
)
from treepo.bench.rollout_variants import PlainVariant, RolloutVariant, TreeVariant, star_rules, tree_rules
from treepo.bench.settings import RolloutBenchConfig
from treepo.data.problem import Problem
from treepo.engine.base import Engine
from treepo.errors import SettingError
from treepo.model.policy import Policy
from treepo.report.bench_results import RolloutMeasurement, RolloutReport, RolloutStats, RolloutWorkload
from treepo.run.engine import build_engine, check_align
from treepo.run.parts import close_parts, find_base_model
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


@dataclass(frozen=True)
class RolloutBench:
    """The parts of one benchmark. plain_model: a copy of the policy's model for the plain loop."""

    config: RolloutBenchConfig
    policy: Policy
    plain_model: PreTrainedModel
    engine: Engine
    problems: Sequence[Problem]

    def cases(self) -> list[RolloutCase]:
        """One per width and response length of the grid: the plain loops, sequential sampling, the trees."""
        return [RolloutCase(*sizes, self._variants(*sizes)) for sizes in self.config.grid.workloads()]

    def _variants(self, width: int, response_len: int) -> list[RolloutVariant]:
        plain = [
            PlainVariant(
                batch=batch,
                model=self.plain_model,
                problems=self.problems,
                width=width,
                response_len=response_len,
                temperature=self.config.engine.temperature,
                eos_ids=_eos_ids(self.config, self.policy),
            )
            for batch in self.config.bench.plain_batches
        ]
        decode = self.policy.decode
        rules = {SEQUENTIAL: star_rules(width, response_len, decode)}
        for shape, fork in self.config.grid.trees(width, response_len):
            aligned = f" a{shape.align}" if shape.align > 1 else ""
            name = f"tree {shape.depth}x{shape.segment_len} k{fork.low} b{shape.num_children}{aligned}"
            rules[name] = tree_rules(shape, fork, decode, answers_end=self.config.bench.answers_end)
        trees = [
            TreeVariant(
                name=name,
                engine=self.engine,
                model=self.policy.model,
                rules=own,
                problems=self.problems,
                temperature=self.config.engine.temperature,
                seed=self.config.bench.seed,
            )
            for name, own in rules.items()
        ]
        return [*plain, *trees]

    def run(self, cases: Sequence[RolloutCase], command: str, progress: ProgressCallback) -> RolloutReport:
        """Measure one case after another. command: as it was typed, for the report."""
        unnamed = "base model" if self.config.bench.answers_end else "random weights"
        return RolloutReport(
            command=command,
            machine=describe_machine(self.config.model.device),
            model=describe_model(self.config.model.path or unnamed, self.policy.model),
            settings=dataclasses.asdict(self.config),
            workloads=tuple(self._measure(case, progress) for case in cases),
        )

    def _measure(self, case: RolloutCase, progress: ProgressCallback) -> RolloutWorkload:
        measured = measure(case.variants, self.config.bench.repeats, progress)
        sequential = next(m for m in measured if m.name == SEQUENTIAL)
        stats = tuple(compare(m, sequential) for m in measured)
        return RolloutWorkload(len(self.problems), case.width, case.response_len, stats)

    def close(self) -> None:
        """Close the engine."""
        close_parts(self.engine)


def measure(variants: Sequence[RolloutVariant], repeats: int, progress: ProgressCallback) -> list[RolloutMeasurement]:
    """Time all variants in turns and count their tokens."""
    seconds = time_interleaved(variants, repeats, progress)
    return [RolloutMeasurement(v.name, s, v.counts()) for v, s in zip(variants, seconds, strict=True)]


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
    policy = _load_policy(config, progress)
    problems = _make_problems(config, policy)
    needed = max(len(p.prompt_ids) for p in problems) + max(length for _, length in config.grid.workloads())
    if policy.max_len is not None and needed > policy.max_len:
        raise SettingError(
            "grid", f"prompts and responses of {needed} tokens exceed the model's {policy.max_len} positions"
        )
    # A copy, so that nothing that the engine does to its model affects the plain loop.
    plain_model = deepcopy(policy.model)
    plain_model.set_attn_implementation("sdpa")
    if config.engine.kind == "vllm":
        for align in config.grid.aligns:
            check_align("grid.aligns", align, config.vllm.block_size_on(policy.model.device.type))
    engine = build_engine(
        policy,
        config.engine,
        vllm=config.vllm,
        servers=config.servers,
        max_model_len=needed,
        eos_ids=_eos_ids(config, policy),
        trust_remote_code=config.model.trust_remote_code,
    )
    if needed > engine.max_model_len:
        close_parts(engine)
        raise SettingError(
            "grid",
            f"prompts and responses of {needed} tokens do not fit into the engine's {engine.max_model_len} "
            "(engine.max_cache_tokens, vllm.max_model_len, or the servers' max-model-len)",
        )
    return RolloutBench(config, policy, plain_model, engine, problems)


def _eos_ids(config: RolloutBenchConfig, policy: Policy) -> tuple[int, ...]:
    """The tokens that end an answer; none if all answers are to have the same length."""
    return policy.eos_ids if config.bench.answers_end else ()


def _load_policy(config: RolloutBenchConfig, progress: ProgressCallback) -> Policy:
    """The model that is named, else the built-in task's base model or random weights."""
    settings = config.model
    if config.bench.answers_end and not settings.path:
        settings = dataclasses.replace(settings, path=find_base_model(progress))
    max_len = config.prompts.max_len + max(length for _, length in config.grid.workloads())
    return load_or_make(settings, config.architecture, max_len, config.bench.seed)


def _make_problems(config: RolloutBenchConfig, policy: Policy) -> list[Problem]:
    seed = config.bench.seed
    if not config.bench.answers_end:
        return random_problems(config.prompts, policy.model.config.vocab_size, seed)
    if not isinstance(policy.tokenizer.bos_token_id, int):
        raise SettingError("bench.answers_end", "the built-in task's problems need a tokenizer with a bos token")
    return ChainSums(policy.tokenizer, seed).training_problems(0, config.prompts.count)


CAPTION = """tree DxS kK bB: depth D, segments of S tokens, K children of the prompt,
B per fork; aA: forks aligned to blocks of A tokens. tokens/s: decoded (and with
the prompt tokens computed). ideal: over sequential, by tokens decoded (and with
prompt tokens)."""


def title_of(workload: RolloutWorkload) -> str:
    """The size of a workload in words."""
    return f"{workload.num_prompts} prompts, {workload.width} trajectories each, {workload.response_len} tokens"


def table(workload: RolloutWorkload) -> Table:
    """One row per variant, within 80 columns."""
    columns = ("traj/s", "tokens/s", "dis-\ntinct", "KV\npeak", "over\nseq.", "ideal", "of the\nideal")
    rows = [
        (
            v.name,
            f"{v.trajectories_per_s:,.1f}",
            f"{v.decoded_per_s:,.0f} ({v.forwarded_per_s:,.0f})",
            f"{v.distinct_ratio:.0%}",
            "-" if v.counts.kv_peak is None else f"{v.counts.kv_peak:,}",
            f"{v.over_sequential:.2f}",
            f"{v.ideal:.2f} ({v.ideal_with_prompts:.2f})",
            f"{v.achieved:.2f}",
        )
        for v in workload.variants
    ]
    return make_table(title_of(workload), CAPTION, columns, rows)


def write_plot(report: RolloutReport, path: Path) -> None:
    """Trajectories per second as bars, one panel per workload; a line where a tree would reach its ideal."""
    from matplotlib.figure import Figure

    workloads = report.workloads
    num_bars = [len(w.variants) for w in workloads]
    figure = Figure(figsize=(8, 1.2 * len(workloads) + 0.36 * sum(num_bars)), layout="constrained")
    panels = figure.subplots(len(workloads), 1, squeeze=False, gridspec_kw={"height_ratios": num_bars})[:, 0]
    for axes, workload in zip(panels, workloads, strict=True):
        bars = axes.barh([v.name for v in workload.variants], [v.trajectories_per_s for v in workload.variants])
        axes.bar_label(bars, [f" {v.over_sequential:.2f}x" for v in workload.variants])
        sequential = next(v.trajectories_per_s for v in workload.variants if v.name == SEQUENTIAL)
        for row, v in enumerate(workload.variants):
            if v.ideal > 1:
                axes.vlines(sequential * v.ideal, row - 0.4, row + 0.4, colors="black", linestyles="dashed")
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_title(title_of(workload), fontsize="medium")
        axes.set_xlabel("trajectories/s (x: over sequential; dashed: ideal by decoded tokens)")
    figure.savefig(path, dpi=150, format="png")
