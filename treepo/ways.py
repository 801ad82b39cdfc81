"""Ways of sampling, as `treepo eval --sampling` names them."""

import tomllib
from dataclasses import dataclass
from typing import Any

from treepo.config import resolve
from treepo.engine import Sampling
from treepo.grow import Rules
from treepo.grow.stopping import Decode
from treepo.settings import Config, Settings

KINDS = ("sequential", "tree", "greedy")
SECTIONS = ("tree", "initial_fork", "branching", "fallback", "stopping")
"""Of which a way may have its own settings."""


@dataclass(frozen=True)
class Way:
    """One way of sampling. label: as it was written; config: the settings of its trees, whose width is the samples."""

    label: str
    kind: str
    config: Config

    @property
    def num_samples(self) -> int:
        """Answers per problem."""
        return 1 if self.kind == "greedy" else self.config.tree.width

    def rules(self, decode: Decode) -> Rules:
        """What its trees are grown by; without forks they are stars."""
        c = self.config
        if self.kind == "tree":
            return Rules(c.tree, c.initial_fork, c.branching, c.fallback, c.stopping, decode)
        return Rules.star(self.num_samples, c.tree.response_limit, decode)

    def sampling(self, settings: Sampling) -> Sampling:
        """How its tokens are drawn: as the engine's settings say, or the likeliest."""
        return Sampling(0.0) if self.kind == "greedy" else settings


def read_way(text: str, num_samples: int, layers: tuple[Settings, ...]) -> Way:
    """sequential, greedy, tree, or tree:KEY=VALUE,... with other settings of [tree], or of another section of SECTIONS
    as SECTION.KEY; layers: the run's settings.

    Raises ValueError naming `sampling` for what is none of these.
    """
    if not text.isprintable():
        # It stands as a label in tables and files, and a line break in a value would begin further settings.
        raise ValueError(f"sampling: {text!r} holds a character that is not printable")
    kind, colon, values = text.partition(":")
    if kind not in KINDS or (colon and kind != "tree"):
        raise ValueError(f"sampling: {text!r} is none of sequential, greedy, tree, tree:KEY=VALUE,...")
    own = _settings(text, values) if colon else {}
    # A fewest number of leaves is for trees with a token budget.
    size = {"width": num_samples} | ({} if kind == "tree" else {"min_width": 1})
    try:
        return Way(text, kind, resolve(*layers, own, {"tree": size}))
    except ValueError as error:
        # Names that TOML spells with escapes may be quoted with their line breaks.
        message = " ".join(str(error).splitlines())
        raise ValueError(f"sampling: {text!r}: {message}" if own else str(error)) from error


def _settings(text: str, values: str) -> Settings:
    own: dict[str, dict[str, Any]] = {}
    for part in values.split(","):
        name, equals, value = part.partition("=")
        section, _, key = name.rpartition(".")
        section = section or "tree"
        if not equals or key in own.get(section, {}) or name in {"width", "tree.width"}:
            raise ValueError(f"sampling: {text!r} must be tree:KEY=VALUE,... with settings of [tree] other than width")
        if section not in SECTIONS:
            raise ValueError(f"sampling: {text!r}: {name!r} is no setting of {', '.join(SECTIONS)}")
        try:
            own.setdefault(section, {})[key] = tomllib.loads(f"value = {value}")["value"]
        # Deep nesting is a RecursionError of the parser, a number of thousands of digits a plain ValueError.
        except (RecursionError, ValueError) as error:
            raise ValueError(f"sampling: {text!r}: {value!r} is no value of {name!r}") from error
    return own
