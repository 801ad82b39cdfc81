"""Experiments with paired seeds: what they make of runs, against numbers worked out by hand, and a run that is tiny."""

import json
from dataclasses import replace
from math import exp, isinf, log, pi, sqrt
from pathlib import Path

import numpy as np
import pytest

from experiments import equal_tokens
from experiments.estimators import differences
from experiments.paired import QUICK, RunSpec, Variant, merged, run_one, run_spec
from experiments.paired_stats import (
    COSTS,
    at_cost,
    at_equal_cost,
    cost_to,
    mean_interval,
    ratio_interval,
    t_quantile,
    to_target,
    with_tables,
)
from experiments.problem_shapes import Costs, gains, known_exactly
from experiments.time_to_accuracy import ratios

ROOT = Path(__file__).parent.parent


def curve(*scores: float, step_cost: float) -> list[dict[str, float]]:
    """A run that was measured after every step."""
    return [
        {"step": i, **dict.fromkeys(COSTS, i * step_cost), "avg": score, "maj": score} for i, score in enumerate(scores)
    ]


def test_student_t_is_that_of_the_tables():
    """Two-sided 95% points of any textbook, and 99% of one."""
    assert [round(t_quantile(n), 3) for n in (1, 2, 4, 9, 30)] == [12.706, 4.303, 2.776, 2.262, 2.042]
    assert round(t_quantile(4, 0.99), 3) == 4.604


def test_an_interval_of_paired_differences():
    """Of 1, 2, 3: mean 2, standard deviation 1, so 4.303 / sqrt(3) to either side."""
    middle, half = mean_interval([1.0, 2.0, 3.0])
    assert middle == 2.0 and half == pytest.approx(4.3027 / sqrt(3), rel=1e-4)
    assert isinf(mean_interval([1.0])[1])


def test_a_ratio_is_that_of_medians_with_the_interval_of_paired_ratios():
    """Ratios 1/2, 1/2, 2: logs have mean -log(2) / 3 and standard deviation log(2) x 2 / sqrt(3)."""
    ratio, low, high = ratio_interval([1.0, 2.0, 8.0], [2.0, 4.0, 4.0])
    half = 4.3027 * log(2) * 2 / 3
    assert ratio == 2.0 / 4.0
    assert (low, high) == pytest.approx((exp(-log(2) / 3 - half), exp(-log(2) / 3 + half)), rel=1e-4)


def test_scores_and_costs_lie_on_lines_between_points():
    points = curve(0.2, 0.4, 0.8, step_cost=10.0)
    assert at_cost(points, "decoded", 15.0, "avg") == pytest.approx(0.6)
    assert at_cost(points, "decoded", 99.0, "avg") == 0.8
    assert cost_to(points, "decoded", 0.6) == pytest.approx(15.0)
    assert cost_to(points, "decoded", 0.1) == 0.0
    assert cost_to(points, "decoded", 0.9) is None
    assert cost_to(curve(0.2, 0.7, 0.5, step_cost=10.0), "decoded", 0.6) == pytest.approx(8.0)


def test_tables_compare_with_the_first_variant_seed_by_seed():
    """B costs half of A and is a tenth better in one seed, equal in the other; one run never reaches the target."""
    curves = {
        "A": {"0": curve(0.0, 0.4, 0.8, step_cost=10.0), "1": curve(0.0, 0.2, 0.4, step_cost=10.0)},
        "B": {"0": curve(0.0, 0.5, 0.9, step_cost=5.0), "1": curve(0.0, 0.2, 0.4, step_cost=5.0)},
    }
    first, second = at_equal_cost(curves, "avg", 1.0).splitlines()[2:]
    assert first.startswith("| A | 60.0 | 30.0 |")
    # At 2 steps differences of 10 and 0, at 10 tokens of 50 and 20: half widths 12.706 x 5 and thrice that.
    assert second.startswith("| B | 65.0 (+5.0 ± 63.5) | 65.0 (+35.0 ± 190.6) |")
    first, second = to_target(curves, 0.6).splitlines()[2:]
    assert first.startswith("| A | 1.5 (1 of 2) | 15 (1 of 2) |")
    assert second.startswith("| B | 1.2 (1 of 2) | 6 (1 of 2) |")
    # To 0.3: A after 0.75 and 1.5 steps, B after 0.6 and 1.5: ratios of 0.8 and 1, half width 12.706 x 0.1116 in logs.
    second = to_target(curves, 0.3).splitlines()[-1]
    assert second.startswith("| B | 1.1: 0.93 (0.22 to 3.69) |")


def test_paths_per_problem_gain_what_cauchy_and_schwarz_say():
    """Two halves of the problems with the noise 1 and 4 and as many tokens: (1 + 4) / 2 over ((1 + 2) / 2)^2. Pass
    rates that are uniform between 0 and 1: E p(1-p) = 1/6 over (pi / 8)^2."""
    costs = Costs(np.array([0.5, 0.5]), np.array([[1.0], [4.0]]), np.ones((2, 1)), np.ones(2, bool))
    assert gains(costs, costs) == pytest.approx([1.0, 2.5 / 1.5**2, 2.5 / 1.5**2])
    two = Costs(costs.shares, np.array([[1.0, 2.0], [4.0, 2.0]]), np.ones((2, 2)), costs.is_known)
    assert gains(two, two)[0] == pytest.approx(2.0 / 1.5)
    uniform = {"all": {"share": 1.0, "pass rate": 0.5, "variance": 1 / 6}}
    assert known_exactly(uniform) == pytest.approx(64 / (6 * pi**2))


def test_tables_take_the_place_of_older_ones():
    page = "A\n<!-- x -->\nold\n<!-- end -->\nB\n<!-- y -->\n<!-- end -->\n"
    assert with_tables(page, "x", "new") == page.replace("old", "\nnew\n")
    assert with_tables(page, "y", "new").endswith("<!-- y -->\n\nnew\n\n<!-- end -->\n")
    assert with_tables(page, "z", "new") == page


def test_a_variant_is_its_recipe_over_the_chosen_baseline():
    layer = {"optim": {"lr": 1e-4}, "tree": {"width": 16}}
    grpo = run_spec("chain_sums", Variant("grpo"), layer, 3, QUICK)
    assert grpo.recipe == "chain_sums_grpo"
    assert grpo.settings["tree"] == {"width": 16, "num_children": 16} and grpo.settings["initial_fork"]["low"] == 16
    tree = run_spec("chain_sums", Variant("treepo", {"tree": {"depth": 4}}), layer, 3, QUICK)
    assert tree.settings == merged(layer, {"tree": {"depth": 4}})
    assert (
        len({grpo.name, tree.name, replace(tree, seed=4).name, replace(tree, plan=replace(QUICK, steps=3)).name}) == 4
    )


@pytest.mark.parametrize("num_steps", [0, 2])
def test_a_run_is_measured_at_its_start_or_after_every_step(chain_model: Path, num_steps: int):
    """Costs add up over the steps, and evaluations are on the same answers whatever the variant."""
    small = {"model": {"path": str(chain_model)}, "train": {"prompts_per_step": 2}, "tree": {"width": 2, "depth": 2}}
    plan = replace(QUICK, steps=num_steps, problems=2)
    points = run_one(RunSpec("chain_sums_treepo", small, 0, plan))
    assert [p["step"] for p in points] == ([1, 2] if num_steps else [0])
    assert all({*COSTS, "avg", "maj", "greedy"} <= p.keys() for p in points)
    if num_steps:
        assert 0 < points[0]["decoded"] < points[1]["decoded"] <= 2 * 2 * 2 * 2 * 16
    else:
        assert all(points[0][cost] == 0 for cost in COSTS)


def test_the_page_says_what_the_results_of_older_experiments_say():
    page = (ROOT / "docs" / "evidence.md").read_text()
    runs = json.loads((ROOT / "experiments/results/estimators.json").read_text())["runs"]
    figures = {
        name: {seed: {int(step): found for step, found in own.items()} for seed, own in by_seed.items()}
        for name, by_seed in runs.items()
    }
    timed = json.loads((ROOT / "experiments/results/time_to_accuracy.json").read_text())["runs"]
    rows = [row for row in differences(figures).splitlines() if row in page]
    assert {"GRPO", "TreePO, by size", "TreePO, rejection", "TreePO, without root"} <= {
        row.split(" | ")[0][2:] for row in rows
    }
    assert ratios(timed) in page
    assert equal_tokens.table(equal_tokens.read("chain_sums"), equal_tokens.read("estimators")) in page
