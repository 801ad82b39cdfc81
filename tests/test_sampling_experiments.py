"""What experiments about sampling make of their measurements, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from experiments import test_time_sampling, throughput

pytestmark = pytest.mark.quick


def points(avg: float, maj: float, decoded: float) -> list[dict[str, float]]:
    """Twice the answers cost twice as much and vote 0.1 better."""
    costs = dict.fromkeys(("forwarded", "cpu_s", "wall_s"), 1.0)
    return [
        {"width": 4, "decoded": decoded, "avg": avg, "maj": maj, **costs},
        {"width": 8, "decoded": 2 * decoded, "avg": avg, "maj": maj + 0.1, **costs},
        {"width": 16, "decoded": 4 * decoded, "avg": avg, "maj": maj + 0.2, **costs},
    ]


def test_differences_are_paired_by_seed_and_costs_are_ratios() -> None:
    """Seeds differ by 20 points, methods by 1 and 3 within a seed: the mean difference is 2, its t interval over two
    seeds 12.706 x 1.414 / 1.414."""
    curves = {
        "sequential": {"0": points(0.5, 0.5, 100), "1": points(0.7, 0.7, 100)},
        "b = 2": {"0": points(0.51, 0.5, 50), "1": points(0.73, 0.7, 50)},
    }
    row = test_time_sampling.table(curves).splitlines()[-1]
    assert "62.0 (+2.0 ± 12.7)" in row and "80.0 (+0.0 ± 0.0)" in row and "200: 0.50 ± 0.00" in row
    # At the 200 tokens of 8 sequential answers (maj 70) a tree of 50 tokens per 4 answers has 16 of them (maj 80).
    assert "80.0 (+10.0 ± 0.0)" in test_time_sampling.at_equal_cost(curves).splitlines()[-1].split("|")[2]


def test_speed_is_the_median_over_rounds_of_ratios() -> None:
    """A round in which the machine is three times as slow for both variants changes no ratio."""
    rates = {"trajectories_per_s": 4.0, "total_per_s": 512.0, "decoded_per_s": 400.0}
    sequential = {"name": "sequential", "seconds": [1.0, 3.0, 1.0], "ideal": 1.0, **rates}
    tree = {"name": "tree 4x32 k2 b2", "seconds": [0.5, 1.5, 1.0], "ideal": 1.5, **rates}
    report = {"workloads": [{"width": 8, "variants": [sequential, tree]}]}
    base, own = throughput.rows_of("embedded", report)
    assert (base["depth"], own["depth"], own["over_sequential"]) == (0, 4, [2.0, 2.0, 1.0])
    assert "| 4 x 32 |" in throughput.table([base, own]) and "2.00 (1.00 to 2.00)" in throughput.table([base, own])
