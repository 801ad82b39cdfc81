"""A chart as data: what the page draws, and nothing about how."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Value = float | int | str | None
"""A position on an axis: a number, or a name on an axis of names. None and numbers that are not finite are gaps."""


@dataclass(frozen=True)
class Axis:
    """An axis of a chart.

    values: of the columns or rows of a heatmap, None elsewhere. is_share: whether values are shares of 1, to be shown
    in percent.
    """

    title: str
    log: bool = False
    values: tuple[Value, ...] | None = None
    is_share: bool = False


@dataclass(frozen=True)
class ChartSeries:
    """Points of one name, in order. low, high: the interval of each point. text: the label of each point."""

    name: str
    x: tuple[Value, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] | None = None
    high: tuple[float | None, ...] | None = None
    text: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for values in (self.y, self.low, self.high, self.text):
            assert values is None or len(values) == len(self.x), "one value per point"


@dataclass(frozen=True)
class Heatmap:
    """Rows of values `z[row][column]`, None where there is none. middle: the neutral value, such as 1 for a ratio."""

    title: str
    z: tuple[tuple[float | None, ...], ...]
    middle: float | None = None


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart of lines, points or bars, or a heatmap. note: where its values come from, in one line."""

    id: str
    title: str
    note: str
    kind: Literal["line", "scatter", "bar", "heatmap"]
    x: Axis
    y: Axis
    series: tuple[ChartSeries, ...] = ()
    heatmap: Heatmap | None = None

    def __post_init__(self) -> None:
        assert (self.kind == "heatmap") == (self.heatmap is not None) == (not self.series), "series or a heatmap"

    def as_json(self) -> dict[str, Any]:
        """The chart as JSON: fields named as here, every number finite or null."""
        chart = {"id": self.id, "title": self.title, "note": self.note, "kind": self.kind}
        if self.heatmap is None:
            parts = {"x": _axis(self.x), "y": _axis(self.y), "series": [asdict(one) for one in self.series]}
        else:
            x, y = (_axis(axis) | {"values": axis.values} for axis in (self.x, self.y))
            middle = {} if self.heatmap.middle is None else {"z_mid": self.heatmap.middle}
            parts = {"x": x, "y": y, "z": self.heatmap.z, "z_title": self.heatmap.title} | middle
        return chart | _plain(parts)


def _axis(axis: Axis) -> dict[str, Any]:
    return {"title": axis.title, "log": axis.log} | ({"percent": True} if axis.is_share else {})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
