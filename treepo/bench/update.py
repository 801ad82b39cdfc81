"""`treepo bench update`: one optimizer update from the same weights, packed, padded and with separate trajectories."""

import gc
import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from time import perf_counter

import torch
from torch import Tensor
from transformers import PreTrainedModel

from treepo.bench.batches import UpdateBatch, grown_batches, synthetic_batch
from treepo.bench.common import (
    Bench,
    Variant,
    check_length,
    load_or_make,
    median_ratio,
    peak_bytes,
    time_interleaved,
    wait,
)
from treepo.bench.settings import UpdateBenchConfig, UpdateBenchSettings, level_sizes
from treepo.learn.losses import PPO, Penalties, TokenMean
from treepo.learn.optim import make_optimizer
from treepo.learn.packing import PackedTree
from treepo.learn.scoring import Scorer
from treepo.learn.settings import OptimSettings
from treepo.learn.updater import Updater
from treepo.model.compatibility import has_plain_head
from treepo.model.norms import use_fused_norms
from treepo.model.policy import load_policy, recompute_activations
from treepo.report.bench_results import UpdateMeasurement, UpdateStats, UpdateWorkload
from treepo.run.model_path import find_base_model
from treepo.utils import ProgressCallback

PACKED = "packed"
"""Shared tokens are computed once; the baseline of all ratios."""

PADDED = "padded"
"""Trajectories as padded rows through the unchanged transformers model; the baseline of gradients."""

LENGTH_PACKED = "length-packed"
"""Trajectories one after the other, without padding."""

NAMES = (PACKED, PADDED, LENGTH_PACKED)


@dataclass(eq=False)
class UpdateVariant(Variant):
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
        wait(self.start.device)

    def run(self) -> None:
        """Pack the trees and make one update."""
        start = perf_counter()
        trees = zip(self.batch.trees, self.batch.advantages, strict=True)
        packed = [self.updater.pack(tree, advantages) for tree, advantages in trees]
        self.parts = self.updater.prepare([part for parts in packed for part in parts])
        self.pack_seconds.append(perf_counter() - start)
        self.updater.update(self.parts)
        wait(self.start.device)

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


def make_variant(name: str, start: PreTrainedModel, settings: UpdateBenchSettings, batch: UpdateBatch) -> UpdateVariant:
    """The variant of that name, one of NAMES, with its own copy of the model and optimizer."""
    model = deepcopy(start)
    supports_tree_attention = name != PADDED
    if supports_tree_attention:
        use_fused_norms(model)
    else:
        model.set_attn_implementation("sdpa")
    if settings.gradient_checkpointing:
        recompute_activations(model)
    scorer = Scorer(
        model,
        has_plain_head=has_plain_head(model, supports_tree_attention),
        supports_tree_attention=supports_tree_attention,
        autocast=torch.bfloat16 if settings.autocast == "bfloat16" else None,
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
    pack_seconds = [tuple(variant.pack_seconds[-repeats:]) for variant in variants]
    peaks = []
    for variant in variants:
        variant.prepare()
        gc.collect()
        peaks.append(peak_bytes(variant.run, variant.start.device))
    padded = next(variant for variant in variants if variant.name == PADDED).gradients()
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


def relative_difference(gradients: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """The largest difference of any two elements, over the largest element of the reference."""
    pairs = zip(gradients, reference, strict=True)
    difference = max(float((one.float() - other.float()).abs().max()) for one, other in pairs)
    return difference / max(float(other.abs().max()) for other in reference)


def compare(measurement: UpdateMeasurement, packed: UpdateMeasurement) -> UpdateStats:
    """The statistics of one variant; all ratios of the packed one to itself are 1."""
    tokens = measurement.num_forwarded / packed.num_forwarded
    time = median_ratio(measurement.seconds, packed.seconds)
    memory = measurement.peak_bytes / packed.peak_bytes
    return UpdateStats(
        **vars(measurement),
        token_ratio=tokens,
        time_ratio=time,
        time_of_ideal=time / tokens,
        memory_ratio=memory,
        memory_of_ideal=memory / tokens,
    )


@dataclass(frozen=True, eq=False)
class UpdateBench(Bench[UpdateBatch, UpdateWorkload]):
    """`treepo bench update`: every update starts from the policy's weights. batches: one per workload."""

    batches: Sequence[UpdateBatch]

    def cases(self) -> Sequence[UpdateBatch]:
        """One per value of sharing, or per width."""
        return self.batches

    def measure(self, case: UpdateBatch, progress: ProgressCallback) -> UpdateWorkload:
        settings = self.config.bench
        variants = [make_variant(name, self.policy.model, settings, case) for name in NAMES]
        measured = measure(variants, settings.repeats, progress)
        packed = next(m for m in measured if m.name == PACKED)
        return UpdateWorkload(
            num_trees=len(case.trees),
            num_trajectories=case.num_trajectories,
            num_distinct=case.num_distinct,
            num_total=case.num_total,
            variants=tuple(compare(m, packed) for m in measured),
        )


def prepare_bench(config: UpdateBenchConfig, progress: ProgressCallback) -> UpdateBench:
    """Load or make the model and the trees.

    progress: called while the built-in task's base model is made. Raises SettingError for a setting that cannot work.
    """
    if config.bench.trees == "task":
        path = config.model.path or find_base_model(progress)
        policy = load_policy(**asdict(replace(config.model, path=path)))
        return UpdateBench(config, policy, "base model", list(grown_batches(config, policy)))
    settings, seed, max_tokens = config.synthetic, config.bench.seed, config.bench.max_tokens_per_micro_batch
    sizes = [level_sizes(settings.distinct, sharing, settings.leaves) for sharing in settings.sharing]
    max_len = max(sum(-(-size // 2**level) for level, size in enumerate(levels)) for levels in sizes)
    policy = load_or_make(config.model, config.architecture, max_len, seed)
    check_length(policy, max_len, "synthetic")
    scorer = Scorer(policy.model, has_plain_head=has_plain_head(policy.model))
    batches = [synthetic_batch(levels, settings.count, scorer, max_tokens, seed) for levels in sizes]
    return UpdateBench(config, policy, "random weights", batches)
