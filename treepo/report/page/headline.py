"""The headline of a run: what was trained on what, what it has come to, and what it cost."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from treepo.utils.text import duration

Json = dict[str, Any]
RunMetrics = Mapping[int, Mapping[str, float]]


def headline_of(settings: Mapping[str, Any], metrics: RunMetrics) -> list[Json]:
    """{name, value, hint} of each fact, in the order in which they are shown; what is not known is left out.

    settings: by `section.key`. metrics: by step, ascending.
    """
    facts = [*_origin(settings), *_accuracies(settings, metrics), *_cost(settings, metrics)]
    return [{"name": name, "value": value, "hint": hint} for name, value, hint in facts if value]


def _origin(settings: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    if not settings:
        return []
    model, data = settings.get("model.path", ""), settings.get("data.train") or []
    datasets = [data] if isinstance(data, str) else data if isinstance(data, list) else []
    names = ", ".join(_short_name(str(name)) for name in datasets)
    task = f"the built-in task {settings.get('task.name', 'chain_sums')}"
    return [
        ("model", _short_name(str(model)) or f"base model of {task}", str(model)),
        ("data", names or task, ", ".join(map(str, datasets))),
        ("estimator", str(settings.get("credit.use", "")), "credit.use"),
    ]


def _short_name(name: str) -> str:
    """The last part of a path; names of a hub, such as Qwen/Qwen2.5-0.5B, stay as they are."""
    return PurePath(name).name if name.startswith(("/", "~", ".")) else name


def _accuracies(settings: Mapping[str, Any], metrics: RunMetrics) -> list[tuple[str, str, str]]:
    num_samples = settings.get("eval.num_samples", "k")
    shown = [
        ("held-out accuracy", "eval/avg", "mean over answers at temperature 1, first and last evaluation"),
        ("greedy", "eval/greedy", "held-out accuracy of greedy answers"),
        (f"pass@{num_samples}", "eval/pass", "share of held-out problems with a right answer among the samples"),
    ]
    if not any("eval/avg" in own for own in metrics.values()):
        shown = [("accuracy in training", "accuracy", "share of right answers, first and last step")]
    return [(name, _before_and_after(metrics, metric), hint) for name, metric, hint in shown]


def _before_and_after(metrics: RunMetrics, name: str) -> str:
    values = [own[name] for own in metrics.values() if name in own]
    # Without an earlier measurement there is nothing to compare with.
    return " \N{RIGHTWARDS ARROW} ".join(f"{value:.1%}" for value in [*values[:1], *values[1:][-1:]])


def _cost(settings: Mapping[str, Any], metrics: RunMetrics) -> list[tuple[str, str, str]]:
    def total(name: str) -> float:
        return sum(float(own.get(name, 0.0)) for own in metrics.values())

    steps, planned = max(metrics, default=0), settings.get("train.num_steps")
    of_planned = f" of {planned}" if isinstance(planned, int) and planned != steps else ""
    decoded, sequential = total("tokens/decoded"), total("tokens/total")
    saved = f"{1 - decoded / sequential:.0%}" if sequential else ""
    hint = f"{decoded:,.0f} tokens were decoded; the same trajectories one by one take {sequential:,.0f}"
    seconds = total("time/step_s")
    return [
        ("steps", f"{steps:,}{of_planned}" if metrics else "", ""),
        ("training time", duration(seconds) if seconds else "", "evaluations not counted; hours:minutes:seconds"),
        ("tokens saved by sharing", saved, hint),
    ]
