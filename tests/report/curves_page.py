"""Payloads of pages without trees, and what is read off the figures that a page draws."""

import time
from typing import Any

import numpy as np
from playwright.sync_api import Page

Json = dict[str, Any]

FIND = """(title) => [...document.querySelectorAll('.card')]
  .find(card => card.offsetParent && card.querySelector('h3').textContent === title)?.querySelector('.graph')"""

READ = f"""(title) => {{
  const graph = ({FIND})(title);
  graph?.scrollIntoView({{block: 'center'}});
  if (!graph?.data) return null;
  const traces = graph.data.map(({{name, x, y, mode, line, stackgroup, showlegend}}) =>
    ({{name, x, y, mode, stackgroup, color: line?.color, dash: line?.dash, faint: showlegend === false}}));
  const {{xaxis, yaxis, paper_bgcolor}} = graph.layout;
  return {{traces, x: xaxis.range, y: yaxis.range, ground: paper_bgcolor}};
}}"""


def run_json(name: str, seed: int, num_steps: int, **settings: Any) -> Json:
    """A run of random metrics: training from step 1 on, held-out accuracy at every fifth step from 0 on."""
    rng = np.random.default_rng(seed)

    def trained(low: float, high: float) -> list[float | None]:
        return [None, *rng.uniform(low, high, num_steps).tolist()]

    decoded, seconds = rng.integers(500, 900, num_steps), rng.uniform(5, 9, num_steps)
    metrics: dict[str, list[float | None]] = {
        "reward/mean": trained(0, 1),
        "eval/avg": [float(rng.uniform()) if step % 5 == 0 else None for step in range(num_steps + 1)],
        "update/grad_norm": trained(0.1, 2),
        "tokens/decoded": [None, *decoded.tolist()],
        "tokens/total": [None, *(2 * decoded).tolist()],
        "time/grow_s": trained(1, 2),
        "time/update_s": trained(2, 3),
        "my_reward/<i>part</i>": trained(0, 1),
        "never/measured": [None] * (num_steps + 1),
    }
    return {
        "name": name,
        "settings": {"tree.width": 8, "train.seed": 0} | settings,
        "environment": {"python": "3.12"},
        "steps": list(range(num_steps + 1)),
        "metrics": metrics,
        "so_far": {"tokens": [0, *np.cumsum(decoded).tolist()], "seconds": [0.0, *np.cumsum(seconds).tolist()]},
        "note": "",
        "trees": {"pieces": [], "steps": []},
    }


def payload_json(runs: list[Json], charts: list[Json]) -> Json:
    return {
        "version": 1,
        "title": "Runs",
        "treepo": "0.1",
        "written": "2026-01-02T03:04:05+00:00",
        "runs": runs,
        "charts": charts,
    }


def measured(run: Json, metric: str, x: list[float]) -> tuple[list[float], list[float]]:
    """(x, values) of the steps at which a metric was measured."""
    pairs = [(at, value) for at, value in zip(x, run["metrics"][metric], strict=True) if value is not None]
    return [at for at, _ in pairs], [value for _, value in pairs]


def chart(page: Page, title: str, until: Any = lambda drawn: True) -> Json:
    """What is drawn under a title, once it is there and as asked for."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        drawn = page.evaluate(READ, title)
        if drawn is not None and until(drawn):
            return drawn
        page.wait_for_timeout(30)
    raise AssertionError(f"{title!r} was not drawn as expected, but as {drawn}")
