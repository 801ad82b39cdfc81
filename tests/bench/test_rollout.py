"""Every variant does the same work, and the token counts are those of the trees' shapes."""

from collections.abc import Sequence

import numpy as np
import pytest

from treepo.bench.common import random_problems
from treepo.bench.rollout import prepare_bench
from treepo.bench.rollout_variants import TreeVariant, stars
from treepo.bench.settings import (
    ArchitectureSettings,
    GridSettings,
    PromptSettings,
    RolloutBenchConfig,
    RolloutBenchSettings,
)
from treepo.data.problem import Problem
from treepo.engine.settings import EngineSettings
from treepo.model.settings import ModelSettings
from treepo.report.bench_results import RolloutReport, RolloutStats

TINY = ArchitectureSettings(hidden_size=16, ffn_size=16, num_layers=1, num_heads=2, num_kv_heads=1)
GRID = GridSettings(widths=(8,), depths=(4,), segment_lens=(3,), num_children=(2, 3), initial_forks=(1, 2))
PROMPTS = PromptSettings(count=5, min_len=4, max_len=9)
CONFIG = RolloutBenchConfig(
    architecture=TINY,
    grid=GRID,
    prompts=PROMPTS,
    engine=EngineSettings(max_num_seqs=16),
    bench=RolloutBenchSettings(repeats=1, plain_batches=(4, 64)),
)


def run(config: RolloutBenchConfig) -> RolloutReport:
    bench = prepare_bench(config, lambda *_: None)
    return bench.run(bench.cases(), "a command", lambda *_: None)


@pytest.fixture(scope="module")
def report() -> RolloutReport:
    return run(CONFIG)


def active_paths(width: int, depth: int, fork: int, num_children: int) -> Sequence[int]:
    """Paths per level of a tree in which nothing ends early."""
    active = [min(fork, width)]
    while len(active) < depth:
        active.append(min(num_children * active[-1], width))
    return active


def test_the_ideal_ratio_has_a_closed_form(report):
    """width x depth over the sum of the active paths: all these trees reach their width without a fallback."""
    trees = [f for f in report.workloads[0].variants if f.name.startswith("tree")]
    assert len(trees) == 4
    for stats in trees:
        fork, children = (int(part[1:]) for part in stats.name.split()[-2:])
        active = active_paths(8, 4, fork, children)
        assert stats.ideal == pytest.approx(8 * 4 / sum(active))
        assert stats.counts.num_decoded == 5 * 3 * sum(active)


def test_the_issues_two_trees_are_in_the_grid():
    """Width 16, depth 6 and width 64, depth 14, forks of 2: what the numbers in the README are relative to."""
    ideals = [width * depth / sum(active_paths(width, depth, 2, 2)) for width, depth in ((16, 6), (64, 14))]
    assert ideals == [pytest.approx(1.548, abs=1e-3), pytest.approx(1.404, abs=1e-3)]


def test_every_variant_samples_as_many_trajectories_of_as_many_tokens(report):
    assert [(w.width, w.response_len, len(w.variants)) for w in report.workloads] == [(8, 12, 7)]
    for workload in report.workloads:
        for counts in (stats.counts for stats in workload.variants):
            assert counts.num_trajectories == 5 * workload.width
            assert counts.num_total == 5 * workload.width * 12
            assert counts.num_distinct <= counts.num_decoded <= counts.num_total


def test_a_grid_at_one_response_length():
    """Depth 7 to 56 with depth x segment length held, of several widths, in one measurement."""
    grid = GridSettings(widths=(4, 8), depths=(7, 14, 28, 56), segment_lens=(4, 8, 16, 32), response_lens=(224,))
    assert grid.workloads() == [(4, 224), (8, 224)]
    for width, length in grid.workloads():
        shapes = [(shape.depth, shape.segment_len) for shape, _ in grid.trees(width, length)]
        assert shapes == [(7, 32), (14, 16), (28, 8), (56, 4)]
    with pytest.raises(ValueError, match=r"response_lens: must be depths x segment_lens of the grid, .*got 225"):
        GridSettings(response_lens=(192, 225))


def by_name(stats: Sequence[RolloutStats]) -> dict[str, RolloutStats]:
    return {f.name: f for f in stats}


def test_prompts_are_computed_once_over_the_engine_and_once_per_row_in_the_plain_loop(report):
    lengths = [len(p.prompt_ids) for p in random_problems(PROMPTS, 29, 0)]
    for workload in report.workloads:
        stats = by_name(workload.variants)
        shared, separate = sum(lengths) - 5, (sum(lengths) - 5) * workload.width
        assert stats["plain 4"].counts.num_prefilled == stats["plain 64"].counts.num_prefilled == separate
        assert shared <= stats["sequential"].counts.num_prefilled < separate
        assert stats["sequential"].counts.num_decoded == stats["sequential"].counts.num_total


def test_the_plain_loops_cache_is_its_batch_times_its_longest_row(report):
    longest = max(len(p.prompt_ids) for p in random_problems(PROMPTS, 29, 0))
    stats = by_name(report.workloads[0].variants)
    assert stats["plain 64"].counts.kv_peak == 5 * 8 * (longest + 12 - 1)
    assert stats["plain 4"].counts.kv_peak == 4 * (longest + 12 - 1)


def test_each_variants_kv_peak_is_its_own():
    """It was read from the engine when all had run, and was that of the last one for all."""
    workload = prepare_bench(CONFIG, lambda *_: None).cases()[0]
    over_engine = [c for c in workload.variants if isinstance(c, TreeVariant)]
    peaks = []
    for variant in over_engine:
        variant.prepare()
        variant.run()
        peaks.append(variant.engine.peak_tokens)
    assert [c.counts().kv_peak for c in over_engine] == peaks
    assert len(set(peaks)) > 1 and min(peaks) > 0


def test_runs_are_compared_with_the_same_work(report):
    """The same counts whenever it is measured: seeds depend on the settings alone."""
    again = run(CONFIG)
    for first, second in zip(report.workloads, again.workloads, strict=True):
        own = [(f.name, f.counts) for f in first.variants if not f.name.startswith("plain")]
        assert own == [(f.name, f.counts) for f in second.variants if not f.name.startswith("plain")]


def test_answers_may_end(chain_model):
    config = RolloutBenchConfig(
        model=ModelSettings(path=str(chain_model)),
        grid=GridSettings(widths=(4,), depths=(5,), segment_lens=(16,)),
        prompts=PromptSettings(count=4),
        bench=RolloutBenchSettings(repeats=1, plain_batches=(16,), answers_end=True),
    )
    plain, sequential, tree = run(config).workloads[0].variants
    for stats in (plain, sequential, tree):
        assert stats.counts.num_trajectories == 16
        assert stats.counts.num_total < 16 * 80, "no answer of this seed ended"
    assert plain.counts.num_decoded > plain.counts.num_total, "rows that ended wait for the last one of their batch"
    assert sequential.ideal == 1


def test_distinct_tokens_of_responses_that_begin_alike():
    problem = Problem("p", "", (1, 2), "")
    responses = [np.array(ids, np.int32) for ids in ([3, 4, 5], [3, 4, 6], [7, 4, 5])]
    tree = stars([problem] * 3, responses)[0]
    assert [t.token_ids.tolist() for t in tree.trajectories()] == [r.tolist() for r in responses]


def test_prompts_that_do_not_fit_the_model_are_named(chain_model):
    config = RolloutBenchConfig(
        model=ModelSettings(path=str(chain_model)), grid=GridSettings(depths=(14,), segment_lens=(16,))
    )
    with pytest.raises(ValueError, match="exceed the model's 256 positions"):
        prepare_bench(config, lambda *_: None)
