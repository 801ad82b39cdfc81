"""What the files of benchmarks say they were measured with."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, PositiveFloat

from treepo.printable import printable

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
        return "; ".join(printable(part) for part in (model, *size, ", ".join(machine), self.command) if part)
