"""Sampling methods, as `treepo eval --sampling` names them."""

import tomllib
from dataclasses import dataclass, replace
from typing import Any

from treepo.config.load import resolve
from treepo.config.schema import Config, Settings
from treepo.data.problem import AnswerFormat, Decode
from treepo.engine.base import SamplingParams
from treepo.errors import SettingError
from treepo.grow.builder import GrowthRules
from treepo.grow.turns import TurnRules
from treepo.model.policy import Policy
from treepo.run.sampler import growth_rules, turn_rules

KINDS = ("sequential", "tree", "greedy")
SECTIONS = ("tree", "initial_fork", "branching", "fallback", "stopping")
"""Sections that a sampling method may set for itself."""


@dataclass(frozen=True)
class SamplingSpec:
    """One method of sampling. label: as it was written; config: the settings of its trees, as wide as the samples."""

    label: str
    kind: str
    config: Config

    @property
    def num_samples(self) -> int:
        """Answers per problem."""
        return 1 if self.kind == "greedy" else self.config.tree.width

    def turns(self, policy: Policy) -> TurnRules | None:
        """How its paths go on after a turn, if there is an environment."""
        return turn_rules(self.config, policy)

    def rules(self, decode: Decode, answers: AnswerFormat, turns: TurnRules | None = None) -> GrowthRules:
        """The rules of its trees; without forks they are stars."""
        if self.kind == "tree":
            return growth_rules(self.config, decode, answers, turns)
        star = GrowthRules.star(self.num_samples, self.config.tree.max_response_tokens, decode, answers)
        return replace(star, turns=turns)

    def sampling(self, settings: SamplingParams) -> SamplingParams:
        """How its tokens are sampled: as the engine's settings say, or greedily; both with eval.repetition_penalty."""
        chosen = SamplingParams(0.0) if self.kind == "greedy" else settings
        return replace(chosen, repetition_penalty=self.config.eval.repetition_penalty)


def parse_sampling(text: str, num_samples: int, layers: tuple[Settings, ...]) -> SamplingSpec:
    """Read sequential, greedy, tree, or tree:KEY=VALUE,... with other settings of [tree], or of another section of
    SECTIONS as SECTION.KEY.

    layers: the run's settings. Raises SettingError for `sampling` if the text is none of these.
    """
    if not text.isprintable():
        # It is a label in tables and files, and a line break in a value would begin further settings.
        raise SettingError("sampling", f"{text!r} holds a character that is not printable")
    kind, colon, values = text.partition(":")
    if kind not in KINDS or (colon and kind != "tree"):
        raise SettingError("sampling", f"{text!r} is none of sequential, greedy, tree, tree:KEY=VALUE,...")
    own = _settings(text, values) if colon else {}
    # A fewest number of leaves is for trees with a token budget.
    size = {"width": num_samples} | ({} if kind == "tree" else {"min_width": 1})
    try:
        return SamplingSpec(text, kind, resolve(*layers, own, {"tree": size}))
    except SettingError as error:
        if not own:
            raise
        raise SettingError("sampling", f"{text!r}: {error}") from error


def _settings(text: str, values: str) -> Settings:
    own: dict[str, dict[str, Any]] = {}
    for part in values.split(","):
        name, equals, value = part.partition("=")
        section, _, key = name.rpartition(".")
        section = section or "tree"
        if not equals or key in own.get(section, {}) or name in {"width", "tree.width"}:
            message = f"{text!r} must be tree:KEY=VALUE,... with settings of [tree] other than width"
            raise SettingError("sampling", message)
        if section not in SECTIONS:
            raise SettingError("sampling", f"{text!r}: {name!r} is no setting of {', '.join(SECTIONS)}")
        try:
            own.setdefault(section, {})[key] = tomllib.loads(f"value = {value}")["value"]
        # Deep nesting is a RecursionError of the parser, a number of thousands of digits a plain ValueError.
        except (RecursionError, ValueError) as error:
            raise SettingError("sampling", f"{text!r}: {value!r} is no value of {name!r}") from error
    return own
