"""One figure as data: what the report draws and nothing about how."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat

from treepo.utils.text import sanitize

Value = float | int | str | None
"""A position on an axis: a number, or a name on an axis of names. None, as any number that is not finite, is a gap."""


@dataclass(frozen=True)
class Axis:
    """What is along an axis. values: those of a heatmap's columns or rows; None elsewhere. is_share: whether
    its numbers are shares of 1, which are told in percent."""

    title: str
    log: bool = False
    values: tuple[Value, ...] | None = None
    is_share: bool = False


@dataclass(frozen=True)
class Series:
    """Points of one name, in order. low, high: the ends of each point's interval. text: what each point is."""

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
    """Rows of values, `z[row][column]`; None where there is none. middle: the value that others are above or
    below, if there is one: 1 of a ratio."""

    title: str
    z: tuple[tuple[float | None, ...], ...]
    middle: float | None = None


@dataclass(frozen=True)
class Figure:
    """One figure: series of lines, points or bars, or a heatmap. note: what it was made with, in one line."""

    id: str
    title: str
    note: str
    kind: Literal["line", "scatter", "bar", "heatmap"]
    x: Axis
    y: Axis
    series: tuple[Series, ...] = ()
    heatmap: Heatmap | None = None

    def __post_init__(self) -> None:
        assert (self.kind == "heatmap") == (self.heatmap is not None) == (not self.series), "series or a heatmap"

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON can hold it: fields as they are named here, every number finite or null."""
        figure = {"id": self.id, "title": self.title, "note": self.note, "kind": self.kind}
        if self.heatmap is None:
            parts = {"x": _axis(self.x), "y": _axis(self.y), "series": [asdict(one) for one in self.series]}
        else:
            x, y = (_axis(axis) | {"values": axis.values} for axis in (self.x, self.y))
            middle = {} if self.heatmap.middle is None else {"z_mid": self.heatmap.middle}
            parts = {"x": x, "y": y, "z": self.heatmap.z, "z_title": self.heatmap.title} | middle
        return figure | _plain(parts)


def _axis(axis: Axis) -> dict[str, Any]:
    return {"title": axis.title, "log": axis.log} | ({"percent": True} if axis.is_share else {})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


Seconds = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
"""Of each measured round."""


@dataclass(frozen=True)
class Source:
    """The head of a benchmark's file: command, machine and model; what a file leaves out is empty."""

    command: str = ""
    machine: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """All of it in one line."""
        model = ", ".join(f"{self.model[key]}" for key in ("path", "type") if key in self.model)
        parameters = self.model.get("parameters")
        size = [f"{parameters / 1e6:,.1f}M parameters"] if isinstance(parameters, int) else []
        machine = [f"{key} {value}" for key, value in self.machine.items()]
        return "; ".join(sanitize(part) for part in (model, *size, ", ".join(machine), self.command) if part)
