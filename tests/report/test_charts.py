"""Charts of benchmarks and evaluations show the numbers of the files they are made of."""

import json
from pathlib import Path
from statistics import median

import pytest

from treepo.report.charts.base import Axis, Chart, ChartSeries, Heatmap
from treepo.report.charts.read import charts_of

ROOT = Path(__file__).parent.parent.parent
UPDATE = ROOT / "benchmarks/results/update-hidden256.json"
ROLLOUT = ROOT / "benchmarks/results/rollout-0.8M-16x6x32.json"
SCALING = ROOT / "benchmarks/results/rollout-0.8M-scaling.json"
GRID = ROOT / "benchmarks/results/rollout-0.8M-grid.json"
EVALUATION = ROOT / "experiments/results/sampling_methods.json"


def charts(path: Path) -> dict[str, dict]:
    """The charts of a file as JSON, by their ids."""
    found = charts_of(path)
    assert found is not None
    parts = [chart.as_json() for chart in found]
    assert len({part["id"] for part in parts}) == len(parts)
    json.dumps(parts, allow_nan=False)
    return {part["id"]: part for part in parts}


def test_a_rollouts_bars_are_its_variants_with_their_slowest_and_fastest_round():
    workload = json.loads(ROLLOUT.read_text())["workloads"][0]
    drawn = charts(ROLLOUT)
    assert list(drawn) == [f"rollout-{name}" for name in ("speed", "tokens", "sharing", "ratio")]
    (series,) = drawn["rollout-speed"]["series"]
    assert series["x"] == ["plain 256", "sequential", "tree 6x32 k2 b2"]
    assert series["y"] == [c["trajectories_per_s"] for c in workload["variants"]]
    assert series["low"] == [512 / max(c["seconds"]) for c in workload["variants"]]
    assert series["high"] == [512 / min(c["seconds"]) for c in workload["variants"]]
    for name, key in (("tokens", "decoded_per_s"), ("sharing", "ideal"), ("ratio", "over_sequential")):
        assert drawn[f"rollout-{name}"]["series"][0]["y"] == [c[key] for c in workload["variants"]]
    assert "0.8M parameters" in drawn["rollout-speed"]["note"] and "torch 2.13.0" in drawn["rollout-speed"]["note"]


def test_rollouts_over_widths_and_over_depths_at_one_length():
    workloads = json.loads(SCALING.read_text())["workloads"]
    drawn = charts(SCALING)
    sequential = next(s for s in drawn["rollout-widths-224-speed"]["series"] if s["name"] == "sequential")
    assert sequential["x"] == [4, 8, 16, 32, 64]
    assert sequential["y"] == [w["variants"][0]["trajectories_per_s"] for w in workloads]
    over_depths = {s["name"]: s for s in drawn["rollout-depths-224-ratio"]["series"]}
    assert list(over_depths) == [f"width {width}, k2 b2" for width in (4, 8, 16, 32, 64)]
    widest = {c["name"]: c for c in workloads[-1]["variants"]}
    assert over_depths["width 64, k2 b2"]["x"] == [7, 14, 28, 56]
    assert over_depths["width 64, k2 b2"]["text"] == [
        f"tree {shape} k2 b2" for shape in ("7x32", "14x16", "28x8", "56x4")
    ]
    assert over_depths["width 64, k2 b2"]["y"] == [
        widest[name]["over_sequential"] for name in over_depths["width 64, k2 b2"]["text"]
    ]


def test_a_grids_cells_are_its_trees_and_gaps_are_null(tmp_path):
    content = json.loads(GRID.read_text())
    heatmap = charts(GRID)["rollout-grid-width-16-k2-b2-ratio"]
    assert all("grid" in name for name in charts(GRID)), "the heatmaps tell more; 91 bars were hair-thin"
    middles = {name.rsplit("-", 1)[1]: chart.get("z_mid") for name, chart in charts(GRID).items()}
    assert middles == {"speed": None, "ratio": 1.0, "sharing": None}, "1.03 of a ratio was blue as 0.87 is"
    assert (heatmap["x"]["values"], heatmap["y"]["values"]) == ([4, 8, 16, 32], [2, 4, 8, 16])
    trees = {c["name"]: c["over_sequential"] for w in content["workloads"] for c in w["variants"]}
    for depth, row in zip(heatmap["y"]["values"], heatmap["z"], strict=True):
        assert row == [trees[f"tree {depth}x{size} k2 b2"] for size in heatmap["x"]["values"]]
    content["workloads"] = [w for w in content["workloads"] if w["response_len"] != 8]
    (tmp_path / "rollout.json").write_text(json.dumps(content))
    cut = charts_of(tmp_path)
    assert cut is not None
    assert next(f for f in cut if f.id.endswith("k2-b2-ratio")).as_json()["z"][0] == [None, *heatmap["z"][0][1:]]


def test_an_updates_bars_and_its_ratios_against_tokens():
    workloads = json.loads(UPDATE.read_text())["workloads"]
    drawn = charts(UPDATE)
    for number, name in enumerate(("packed", "padded", "length-packed")):
        variants = [next(c for c in w["variants"] if c["name"] == name) for w in workloads]
        bars = next(s for s in drawn["update-seconds"]["series"] if s["name"] == name)
        assert bars["y"] == [median(c["seconds"]) for c in variants]
        memory = next(s for s in drawn["update-memory"]["series"] if s["name"] == name)
        assert memory["y"] == [c["peak_bytes"] / 2**20 for c in variants]
        ratios = next(s for s in drawn["update-time-ratio"]["series"] if s["name"] == name)
        assert list(zip(ratios["x"], ratios["y"], strict=True)) == [
            (c["token_ratio"], c["time_ratio"]) for c in sorted(variants, key=lambda c: c["token_ratio"])
        ], number


def test_an_evaluations_accuracy_cost_and_gain():
    results = json.loads(EVALUATION.read_text())["results"]
    drawn = charts(EVALUATION)
    settings = [result["setting"] for result in results]
    assert [s["name"] for s in drawn["eval-avg-k"]["series"]] == settings
    for series, result in zip(drawn["eval-maj-k"]["series"], results, strict=True):
        maj = result["datasets"][0]["maj"]
        assert (series["x"], series["y"]) == (["chain_sums"], [maj["value"]])
        assert (series["low"], series["high"]) == ([maj["low"]], [maj["high"]])
    passed = drawn["eval-pass"]["series"][0]
    assert (passed["name"], passed["x"]) == ("sequential", [1, 2, 4, 8, 16])
    assert passed["y"] == [e["value"] for e in results[0]["overall"]["pass_at"].values()]
    for name, key in (("tokens", "tokens_decoded"), ("time", "wall_s")):
        for series, result in zip(drawn[f"eval-cost-{name}"]["series"], results, strict=True):
            assert (series["name"], series["text"]) == (result["setting"], ["avg@16", "maj@16"])
            assert series["x"] == 2 * [result["cost"][key] / 400]
            assert series["y"] == [result["overall"][measure]["value"] for measure in ("avg", "maj")]
    first, *others = drawn["eval-gain"]["series"]
    assert (first["name"], first["y"]) == ("sequential", [None, None])
    for series, result in zip(others, results[1:], strict=True):
        gain = result["gain"]
        assert (series["name"], series["x"]) == (result["setting"], ["avg@k", "maj@k"])
        assert series["y"] == [gain["avg"]["value"], gain["maj"]["value"]]
        assert series["low"] == [gain["avg"]["low"], gain["maj"]["low"]]


def test_the_majority_is_drawn_beside_the_votes_that_are_drawn_at_random(tmp_path):
    """Results of earlier versions hold none, and lack the chart."""
    results = json.loads(EVALUATION.read_text())["results"]
    for result in results:
        for part in (*result["datasets"], result["overall"]):
            part["majority"] = {"value": 0.75, "low": 0.5, "high": 0.875}
    (tmp_path / "results.json").write_text(json.dumps(results))
    drawn = charts(tmp_path / "results.json")
    for series in drawn["eval-majority-k"]["series"]:
        assert (series["y"], series["low"], series["high"]) == ([0.75], [0.5], [0.875])
    results[0]["overall"]["majority"] = None
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert "eval-majority-k" not in charts(tmp_path / "results.json")


def test_votes_of_different_size_are_drawn_over_k(tmp_path):
    results = json.loads(EVALUATION.read_text())["results"][:2]
    results[1]["k"] = 4
    (tmp_path / "results.json").write_text(json.dumps(results))
    drawn = charts(tmp_path / "results.json")
    series = drawn["eval-maj-over-k"]["series"]
    assert [(s["x"], s["y"]) for s in series] == [([r["k"]], [r["overall"]["maj"]["value"]]) for r in results]
    labels = [f"{result['setting']}, k = {result['k']}" for result in results]
    assert [s["name"] for s in drawn["eval-maj-k"]["series"]] == labels, "bars of different k had the same label"


def test_accuracies_are_told_in_percent_and_nothing_else(tmp_path):
    """They were fractions here and percent in curves."""
    assert all(chart["y"]["percent"] for chart in charts(EVALUATION).values())
    assert not any("percent" in chart["x"] for chart in charts(EVALUATION).values())
    assert not any("percent" in chart["y"] for chart in charts(UPDATE).values())


def test_the_list_that_an_evaluation_writes_shows_models_and_all_sets(tmp_path):
    """--json writes the list alone. Several models are named in the labels; several sets are shown together too."""
    results = json.loads(EVALUATION.read_text())["results"][:2]
    results[1]["model"] = "other\x1b[2J\n"
    results[1]["datasets"].append(results[1]["datasets"][0] | {"dataset": "second"})
    (tmp_path / "results.json").write_text(json.dumps(results))
    avg = charts(tmp_path / "results.json")["eval-avg-k"]["series"]
    assert [s["x"] for s in avg] == [["chain_sums", "all datasets"], ["chain_sums", "second", "all datasets"]]
    assert avg[0]["name"] == "runs/run/model, sequential"
    assert avg[1]["name"].startswith("other\\x1b[2J\\n, tree:")


def test_what_is_no_benchmark_and_no_evaluation_is_none(tmp_path):
    assert charts_of(tmp_path) is None
    assert charts_of(tmp_path / "missing.json") is None
    assert charts_of(ROOT / "README.md") is None
    assert charts_of(ROOT / "benchmarks/results/verifying.json") is None
    for number, content in enumerate((None, [], {}, [[]], {"workloads": [{"variants": []}]}, {"results": {}}, "text")):
        (tmp_path / f"{number}.json").write_text(json.dumps(content))
        assert charts_of(tmp_path / f"{number}.json") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:1000], "it is no JSON"),
        (lambda text: "[" * 100_000, "it is no JSON"),
        (lambda text: text.replace('"seconds": [', '"seconds": [0.0,', 1), "workloads.0.variants.0.seconds.0"),
        (lambda text: text.replace('"parameters": ', '"parameters": 1' + "0" * 400, 1), "a number is too large"),
        (lambda text: text.replace('"width"', '"with"'), "workloads.0.width: Field required"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, change, message):
    path = tmp_path / "rollout.json"
    path.write_text(change(ROLLOUT.read_text()))
    for given in (path, tmp_path):
        with pytest.raises(ValueError, match="rollout.json' is damaged: ") as told:
            charts_of(given)
        assert message in str(told.value)


@pytest.mark.parametrize("parameters", [None, "8M", []])
def test_a_model_of_no_known_size_is_no_mistake(tmp_path, parameters):
    """`null` in a benchmark's file ended the report in a traceback."""
    content = json.loads(ROLLOUT.read_text())
    content["model"]["parameters"] = parameters
    (tmp_path / "rollout.json").write_text(json.dumps(content))
    assert "M parameters" not in charts(tmp_path / "rollout.json")["rollout-speed"]["note"]


def test_numbers_that_are_not_finite_are_null():
    line = Chart(
        id="f",
        title="t",
        note="",
        kind="line",
        x=Axis("x"),
        y=Axis("y"),
        series=(ChartSeries("s", (1.0,), (float("nan"),), low=(-1.0,)),),
    )
    (series,) = line.as_json()["series"]
    assert series == {"name": "s", "x": [1.0], "y": [None], "low": [-1.0], "high": None, "text": None}
    infinite = Heatmap("z", ((float("inf"), None, 2.0),))
    heat = Chart(
        id="f",
        title="t",
        note="",
        kind="heatmap",
        x=Axis("x", values=(1, 2, 4)),
        y=Axis("y", values=(2,)),
        heatmap=infinite,
    )
    assert heat.as_json()["z"] == [[None, None, 2.0]]
    assert heat.as_json()["x"] == {"title": "x", "log": False, "values": [1, 2, 4]}
