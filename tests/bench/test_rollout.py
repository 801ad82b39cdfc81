"""Every contender does the same work, and the token counts are those of the trees' shapes."""

from collections.abc import Sequence

import numpy as np
import pytest

from treepo.bench.rollout import prepare_bench, random_problems
from treepo.bench.rollout_report import RolloutReport
from treepo.bench.rollout_variants import TreeContender, stars
from treepo.bench.settings import (
    ArchitectureSettings,
    GridSettings,
    PromptSettings,
    RolloutBenchConfig,
    RolloutBenchSettings,
)
from treepo.bench.timing import Figures
from treepo.data.problem import Problem
from treepo.engine.settings import EngineSettings
from treepo.model.settings import ModelSettings

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
    return bench.run(bench.workloads(), "a command", lambda *_: None)


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
    trees = [f for f in report.workloads[0].contenders if f.name.startswith("tree")]
    assert len(trees) == 4
    for figures in trees:
        fork, children = (int(part[1:]) for part in figures.name.split()[-2:])
        active = active_paths(8, 4, fork, children)
        assert figures.ideal == pytest.approx(8 * 4 / sum(active))
        assert figures.counts.num_decoded == 5 * 3 * sum(active)


def test_the_issues_two_trees_are_in_the_grid():
    """Width 16, depth 6 and width 64, depth 14, forks of 2: what the figures in the README are relative to."""
    ideals = [width * depth / sum(active_paths(width, depth, 2, 2)) for width, depth in ((16, 6), (64, 14))]
    assert ideals == [pytest.approx(1.548, abs=1e-3), pytest.approx(1.404, abs=1e-3)]


def test_every_contender_samples_as_many_trajectories_of_as_many_tokens(report):
    assert [(w.width, w.response_len, len(w.contenders)) for w in report.workloads] == [(8, 12, 7)]
    for workload in report.workloads:
        for counts in (figures.counts for figures in workload.contenders):
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
    with pytest.raises(ValueError, match=r"response_lens must be depths x segment_lens of the grid, .*got 225"):
        GridSettings(response_lens=(192, 225))


def by_name(figures: Sequence[Figures]) -> dict[str, Figures]:
    return {f.name: f for f in figures}


def test_prompts_are_computed_once_over_the_engine_and_once_per_row_in_the_plain_loop(report):
    lengths = [len(p.prompt_ids) for p in random_problems(PROMPTS, 29, 0)]
    for workload in report.workloads:
        figures = by_name(workload.contenders)
        shared, separate = sum(lengths) - 5, (sum(lengths) - 5) * workload.width
        assert figures["plain 4"].counts.num_prefilled == figures["plain 64"].counts.num_prefilled == separate
        assert shared <= figures["sequential"].counts.num_prefilled < separate
        assert figures["sequential"].counts.num_decoded == figures["sequential"].counts.num_total


def test_the_plain_loops_cache_is_its_batch_times_its_longest_row(report):
    longest = max(len(p.prompt_ids) for p in random_problems(PROMPTS, 29, 0))
    figures = by_name(report.workloads[0].contenders)
    assert figures["plain 64"].counts.kv_peak == 5 * 8 * (longest + 12 - 1)
    assert figures["plain 4"].counts.kv_peak == 4 * (longest + 12 - 1)


def test_each_contenders_kv_peak_is_its_own():
    """It was read from the engine when all had run, and was that of the last one for all."""
    workload = prepare_bench(CONFIG, lambda *_: None).workloads()[0]
    over_engine = [c for c in workload.contenders if isinstance(c, TreeContender)]
    peaks = []
    for contender in over_engine:
        contender.prepare()
        contender.run()
        peaks.append(contender.engine.peak_tokens)
    assert [c.counts().kv_peak for c in over_engine] == peaks
    assert len(set(peaks)) > 1 and min(peaks) > 0


def test_runs_are_compared_with_the_same_work(report):
    """The same counts whenever it is measured: seeds depend on the settings alone."""
    again = run(CONFIG)
    for first, second in zip(report.workloads, again.workloads, strict=True):
        own = [(f.name, f.counts) for f in first.contenders if not f.name.startswith("plain")]
        assert own == [(f.name, f.counts) for f in second.contenders if not f.name.startswith("plain")]


def test_answers_may_end(chain_model):
    config = RolloutBenchConfig(
        model=ModelSettings(path=str(chain_model)),
        grid=GridSettings(widths=(4,), depths=(5,), segment_lens=(16,)),
        prompts=PromptSettings(count=4),
        bench=RolloutBenchSettings(repeats=1, plain_batches=(16,), answers_end=True),
    )
    plain, sequential, tree = run(config).workloads[0].contenders
    for figures in (plain, sequential, tree):
        assert figures.counts.num_trajectories == 16
        assert figures.counts.num_total < 16 * 80, "no answer of this seed ended"
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
