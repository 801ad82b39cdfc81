"""`treepo bench update`: one optimizer update from the same weights, packed, padded and with separate trajectories."""

import dataclasses
import gc
import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from treepo.bench.batches import UpdateBatch, grown_batches, synthetic_batch
from treepo.bench.common import (
    describe_machine,
    describe_model,
    load_or_make,
    make_table,
    median_ratio,
    peak_bytes,
    time_interleaved,
)
from treepo.bench.settings import UpdateBenchConfig, UpdateBenchSettings, level_sizes
from treepo.errors import SettingError
from treepo.learn.losses import PPO, Penalties, TokenMean
from treepo.learn.packing import PackedTree
from treepo.learn.scoring import Scorer
from treepo.learn.settings import OptimSettings
from treepo.learn.train_state import make_optimizer
from treepo.learn.updater import Updater
from treepo.model.compatibility import has_plain_head
from treepo.model.policy import Policy, load_policy, recompute_activations
from treepo.report.bench_results import UpdateMeasurement, UpdateReport, UpdateStats, UpdateWorkload
from treepo.run.parts import find_base_model
from treepo.utils import ProgressCallback

PACKED = "packed"
"""Shared tokens are computed once; the baseline of all ratios."""

PADDED = "padded"
"""Trajectories as padded rows through the unchanged transformers model; the baseline of gradients."""

LENGTH_PACKED = "length-packed"
"""Trajectories one after the other, without padding."""

NAMES = (PACKED, PADDED, LENGTH_PACKED)


@dataclass(eq=False)
class UpdateVariant:
    """One way of making an update; every run starts from the weights of `start` and a fresh optimizer."""

    name: str
    updater: Updater
    start: PreTrainedModel
    batch: UpdateBatch
    parts: list[PackedTree] = field(default_factory=list)
    pack_seconds: list[float] = field(default_factory=list)

    @property
    def parameters(self) -> Sequence[Tensor]:
        """The parameters of the updated model."""
        return list(self.updater.scorer.model.parameters())

    @torch.no_grad()
    def prepare(self) -> None:
        self.parts = []
        self.updater.optimizer.zero_grad(set_to_none=True)
        for own, first in zip(self.parameters, self.start.parameters(), strict=True):
            own.copy_(first)
        # A fresh state is all zeros; it is kept, so that no run has to allocate it.
        for state in self.updater.optimizer.state.values():
            for value in state.values():
                value.zero_()
        self._wait()

    def run(self) -> None:
        """Pack the trees and make one update."""
        start = perf_counter()
        trees = zip(self.batch.trees, self.batch.advantages, strict=True)
        packed = [self.updater.pack(tree, advantages) for tree, advantages in trees]
        self.parts = self.updater.prepare([part for parts in packed for part in parts])
        self.pack_seconds.append(perf_counter() - start)
        self.updater.update(self.parts)
        self._wait()

    def num_forwarded(self) -> int:
        """Tokens of the last run's forwards, with padding."""
        sizes = [part.num_tokens for part in self.parts]
        if self.updater.scorer.supports_tree_attention:
            return sum(sizes)
        batches = self.updater.scorer.batches(self.parts, self.updater.max_tokens)
        return sum(len(batch) * max(sizes[i] for i in batch) for batch in batches)

    def gradients(self) -> list[Tensor]:
        """The gradients of the last run, per parameter."""
        return [p.grad for p in self.parameters if p.grad is not None]

    def _wait(self) -> None:
        device = self.start.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def make_variant(name: str, start: PreTrainedModel, settings: UpdateBenchSettings, batch: UpdateBatch) -> UpdateVariant:
    """The variant of that name, one of NAMES, with its own copy of the model and optimizer."""
    model = deepcopy(start)
    supports_tree_attention = name != PADDED
    if not supports_tree_attention:
        model.set_attn_implementation("sdpa")
    if settings.gradient_checkpointing:
        recompute_activations(model)
    scorer = Scorer(
        model,
        has_plain_head=has_plain_head(model, supports_tree_attention),
        supports_tree_attention=supports_tree_attention,
    )
    optimizer, schedule = make_optimizer(model, OptimSettings(warmup_steps=0))
    # Gradients are not clipped, so that they can be compared.
    updater = Updater(
        scorer=scorer,
        loss=PPO(),
        aggregation=TokenMean(),
        penalties=Penalties(),
        optimizer=optimizer,
        schedule=schedule,
        max_tokens_per_micro_batch=settings.max_tokens_per_micro_batch,
        max_grad_norm=math.inf,
        packing=name == PACKED,
    )
    return UpdateVariant(name, updater, start, batch)


def measure(variants: Sequence[UpdateVariant], repeats: int, progress: ProgressCallback) -> list[UpdateMeasurement]:
    """Time all variants in turns, then run each once more for its memory and gradients."""
    seconds = time_interleaved(variants, repeats, progress)
    pack_seconds = [tuple(v.pack_seconds[-repeats:]) for v in variants]
    peaks = [_peak(v) for v in variants]
    padded = next(v for v in variants if v.name == PADDED).gradients()
    return [
        UpdateMeasurement(
            name=variant.name,
            num_forwarded=variant.num_forwarded(),
            seconds=whole,
            pack_seconds=packing,
            peak_bytes=peak,
            gradient_difference=relative_difference(variant.gradients(), padded),
        )
        for variant, whole, packing, peak in zip(variants, seconds, pack_seconds, peaks, strict=True)
    ]


def _peak(variant: UpdateVariant) -> int:
    variant.prepare()
    gc.collect()
    return peak_bytes(variant.run, variant.start.device)


def relative_difference(gradients: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """The largest difference of any two elements, over the largest element of the reference."""
    pairs = zip(gradients, reference, strict=True)
    difference = max(float((one.float() - other.float()).abs().max()) for one, other in pairs)
    return difference / max(float(other.abs().max()) for other in reference)


def compare(measured: Sequence[UpdateMeasurement]) -> tuple[UpdateStats, ...]:
    """The statistics of all variants; all ratios of the packed one are 1."""
    packed = next(m for m in measured if m.name == PACKED)
    return tuple(_compare(m, packed) for m in measured)


def _compare(own: UpdateMeasurement, packed: UpdateMeasurement) -> UpdateStats:
    tokens = own.num_forwarded / packed.num_forwarded
    time = median_ratio(own.seconds, packed.seconds)
    memory = own.peak_bytes / packed.peak_bytes
    return UpdateStats(
        **vars(own),
        token_ratio=tokens,
        time_ratio=time,
        time_of_ideal=time / tokens,
        memory_ratio=memory,
        memory_of_ideal=memory / tokens,
    )


@dataclass(frozen=True, eq=False)
class UpdateBench:
    """The parts of one benchmark. policy: every update starts from its weights. batches: one per workload."""

    config: UpdateBenchConfig
    policy: Policy
    batches: Sequence[UpdateBatch]

    def cases(self) -> Sequence[UpdateBatch]:
        """One per value of sharing, or per width."""
        return self.batches

    def run(self, cases: Sequence[UpdateBatch], command: str, progress: ProgressCallback) -> UpdateReport:
        """Measure one case after another. command: as it was typed, for the report."""
        unnamed = "random weights" if self.config.bench.trees == "synthetic" else "base model"
        return UpdateReport(
            command=command,
            machine=describe_machine(self.config.model.device),
            model=describe_model(self.config.model.path or unnamed, self.policy.model),
            settings=dataclasses.asdict(self.config),
            workloads=tuple(self._measure(batch, progress) for batch in cases),
        )

    def _measure(self, batch: UpdateBatch, progress: ProgressCallback) -> UpdateWorkload:
        settings = self.config.bench
        variants = [make_variant(name, self.policy.model, settings, batch) for name in NAMES]
        return UpdateWorkload(
            num_trees=len(batch.trees),
            num_trajectories=batch.num_trajectories,
            num_distinct=batch.num_distinct,
            num_total=batch.num_total,
            variants=compare(measure(variants, settings.repeats, progress)),
        )

    def close(self) -> None:
        """Nothing is left open: the engine that grew the trees is closed."""


def prepare_bench(config: UpdateBenchConfig, progress: ProgressCallback) -> UpdateBench:
    """Load or make the model and the trees.

    progress: called while the built-in task's base model is made. Raises SettingError for a setting that cannot work.
    """
    if config.bench.trees == "synthetic":
        return _prepare_synthetic(config)
    model = config.model
    path = model.path or find_base_model(progress)
    policy = load_policy(path, dtype=model.dtype, device=model.device, trust_remote_code=model.trust_remote_code)
    return UpdateBench(config, policy, list(grown_batches(config, policy)))


def _prepare_synthetic(config: UpdateBenchConfig) -> UpdateBench:
    settings, seed, max_tokens = config.synthetic, config.bench.seed, config.bench.max_tokens_per_micro_batch
    sizes = [level_sizes(settings.distinct, sharing, settings.leaves) for sharing in settings.sharing]
    max_len = max(sum(-(-size // 2**level) for level, size in enumerate(levels)) for levels in sizes)
    policy = load_or_make(config.model, config.architecture, max_len, seed)
    if policy.max_len is not None and max_len > policy.max_len:
        reason = f"trajectories of {max_len} tokens exceed the model's {policy.max_len} positions"
        raise SettingError("synthetic", reason)
    scorer = Scorer(policy.model, has_plain_head=has_plain_head(policy.model))
    batches = [synthetic_batch(levels, settings.count, scorer, max_tokens, seed) for levels in sizes]
    return UpdateBench(config, policy, batches)


CAPTION = """tokens: forwarded, with padding. s: packing and the update.
MiB: most memory of tensors beyond what was there before.
gradient: the largest difference to padded's, relative.
x: over packed; of ideal: that over the ratio of tokens."""


def title_of(workload: UpdateWorkload) -> str:
    """The size of a workload in words."""
    return (
        f"{workload.num_trees} tree{'s' * (workload.num_trees > 1)}, {workload.num_trajectories} trajectories, "
        f"{workload.num_distinct:,} distinct tokens of {workload.num_total:,}: sharing {workload.sharing:.2f}"
    )


def table(workload: UpdateWorkload) -> Table:
    """One row per variant, within 80 columns."""
    columns = ("tokens", "s", "MiB", "gra-\ndient", "tokens\nx", "time\nx", "of\nideal", "MiB\nx", "of\nideal")
    rows = [
        (
            v.name,
            f"{v.num_forwarded:,}",
            f"{median(v.seconds):.3f}",
            f"{v.peak_bytes / 2**20:,.1f}",
            f"{v.gradient_difference:.0e}",
            f"{v.token_ratio:.2f}",
            f"{v.time_ratio:.2f}",
            f"{v.time_of_ideal:.2f}",
            f"{v.memory_ratio:.2f}",
            f"{v.memory_of_ideal:.2f}",
        )
        for v in workload.variants
    ]
    return make_table(title_of(workload), CAPTION, columns, rows)


def write_plot(report: UpdateReport, path: Path) -> None:
    """Time and memory against tokens, all relative to the packed update; dashed: in proportion."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    by_name = [{v.name: v for v in workload.variants} for workload in report.workloads]
    for axes, what in zip(figure.subplots(1, 2), ("time", "memory"), strict=True):
        for name in NAMES:
            if name != PACKED:
                points = sorted((v[name].token_ratio, getattr(v[name], f"{what}_ratio")) for v in by_name)
                axes.plot(*zip(*points, strict=True), marker="o", label=name)
        most = max(v.token_ratio for variants in by_name for v in variants.values())
        axes.plot([1, most], [1, most], color="black", linestyle="dashed", label="in proportion to tokens")
        axes.set_xlabel("tokens forwarded, over packed")
        axes.set_ylabel(f"{what}, over packed")
        axes.legend()
    figure.savefig(path, dpi=150, format="png")
