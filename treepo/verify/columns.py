"""Which columns of a problem's record a verifier asks for, by the parameters of its call."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any

NUM_ANSWER_PARAMETERS = 2
"""The response and the ground truth come first, by position."""


@dataclass(frozen=True)
class WantedColumns:
    """The columns that a verifier is called with, by keyword.

    names: those of its parameters. required: those of them without a default. takes_all: whether it has **columns.
    never: names that cannot be passed, since they are those of its response and ground truth.
    """

    names: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    takes_all: bool = False
    never: tuple[str, ...] = ()

    def select(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """The columns that are passed."""
        if self.takes_all:
            return {name: value for name, value in columns.items() if name not in self.never}
        return {name: columns[name] for name in self.names if name in columns}

    def missing(self, columns: Mapping[str, Any]) -> list[str]:
        """The columns that are needed and not there."""
        return [name for name in self.required if name not in columns]


def wanted_columns(function: Callable[..., Any]) -> WantedColumns:
    """What a function asks for besides response and ground truth; nothing if it does not tell its parameters.

    Raises ValueError if it needs more than these by position only.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return WantedColumns()
    by_position = {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}
    # *args takes both, and whatever follows is a column.
    first = [p for p in parameters if p.kind in by_position][:NUM_ANSWER_PARAMETERS]
    others = [p for p in parameters if p not in first]
    if hidden := [p.name for p in others if p.kind is Parameter.POSITIONAL_ONLY and p.default is Parameter.empty]:
        raise ValueError(f"its parameter {hidden[0]!r} must be one that can be passed by keyword, as columns are")
    named = [p for p in others if p.kind in {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}]
    return WantedColumns(
        names=tuple(p.name for p in named),
        required=tuple(p.name for p in named if p.default is Parameter.empty),
        takes_all=any(p.kind is Parameter.VAR_KEYWORD for p in others),
        never=("self", *(p.name for p in first if p.kind is not Parameter.POSITIONAL_ONLY)),
    )
