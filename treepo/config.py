"""Every setting of a run: declared once, read from a recipe, overridden on the command line, kept in the run folder.

A section is a frozen dataclass, and the dataclass is what runs. Where behaviour can be exchanged (the sections typed
by a protocol), `use` names another class: one from the same package, or `module:Class` for one's own.
"""

import dataclasses
import importlib
import inspect
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_type_hints

import tomli_w
from pydantic import Field, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from treepo.credit import Estimator, TreePO
from treepo.grow import Branching, EvenBranching, Fallback, InitialFork, Resume, Stopping, StopRules, TreeShape
from treepo.learn.dynamic import DynamicSampling
from treepo.learn.loss import ClippedLoss
from treepo.learn.optim import OptimSettings

Count = Annotated[int, Field(ge=1)]
T = TypeVar("T")


@dataclass(frozen=True)
class ModelSettings:
    """The policy."""

    path: str = ""
    """Hugging Face model folder or name; empty for the built-in task's base model."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights."""

    device: str = "cpu"
    """Where the model lives: cpu, cuda, cuda:1."""

    trust_remote_code: bool = False
    """Run Python code that comes with the model."""


@dataclass(frozen=True)
class DataSettings:
    """The problems."""

    path: str = ""
    """JSON-lines file of problems; empty for the built-in task."""

    held_out_path: str = ""
    """JSON-lines file of problems to evaluate on; empty to hold out one problem in ten of `path`."""

    prompt_field: str = "prompt"
    """Field with the question."""

    answer_field: str = "answer"
    """Field with the known answer."""

    answer_after: str = ""
    """Take as the known answer what follows the last occurrence of this mark (GSM8K: ####)."""

    instruction: str = "\nPlease reason step by step, and put your final answer within \\boxed{}."
    """Text put after each question of a file."""

    max_prompt_len: Count = 1024
    """Problems with more prompt tokens are dropped."""


@dataclass(frozen=True)
class EngineSettings:
    """The embedded engine."""

    max_batch: Count = 256
    """Most paths decoded at a time."""

    max_prefill_tokens: Count = 8192
    """Most prompt tokens of one forward, though at least one prompt."""

    max_tokens: Annotated[int, Field(ge=64)] | None = None
    """Most tokens whose keys and values are kept; half of the free memory's worth if not given."""

    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    """Sampling temperature in training."""


@dataclass(frozen=True)
class TrainSettings:
    """The loop."""

    num_steps: Annotated[int, Field(ge=0)] = 100
    """Training steps."""

    problems_per_step: Count = 32
    """Trees wanted per step."""

    num_mini_batches: Count = 2
    """Updates per step, each on its share of the problems."""

    micro_batch_tokens: Count = 8192
    """Most packed tokens of one forward; a larger tree goes alone."""

    trees_every: Annotated[int, Field(ge=0)] = 10
    """Steps between those whose trees are kept in trees/step-*.parquet; 0 for none."""

    seed: Annotated[int, Field(ge=0)] = 0
    """All randomness of the run derives from it."""


@dataclass(frozen=True)
class EvalSettings:
    """Held-out accuracy, before and after training."""

    num_problems: Annotated[int, Field(ge=0)] = 400
    """Held-out problems; fewer if there are fewer, 0 for no evaluation."""

    num_samples: Count = 2
    """Answers per problem at temperature 1."""

    every: Annotated[int, Field(ge=0)] = 0
    """Steps between evaluations during training; 0 for none."""


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    tree: TreeShape = TreeShape(segment_len=128)
    initial_fork: InitialFork = InitialFork()
    branching: Branching = EvenBranching()
    fallback: Fallback = Resume()
    stopping: Stopping = StopRules()
    engine: EngineSettings = EngineSettings()
    credit: Estimator = TreePO()
    loss: ClippedLoss = ClippedLoss()
    optim: OptimSettings = OptimSettings()
    train: TrainSettings = TrainSettings()
    dynamic_sampling: DynamicSampling = DynamicSampling()
    eval: EvalSettings = EvalSettings()


Settings = Mapping[str, Mapping[str, Any]]
"""Settings as TOML holds them: section -> key -> value."""

BUILT_IN_TASK: Settings = {
    "tree": {"width": 8, "depth": 8, "segment_len": 16, "num_children": 2},
    "optim": {"lr": 2e-4, "warmup_steps": 5, "betas": [0.9, 0.95], "weight_decay": 0.0},
    "train": {"num_steps": 35, "problems_per_step": 32, "num_mini_batches": 2},
}
"""What differs from the defaults when neither a recipe nor a file of problems is given: the built-in task's model of
0.8M parameters learns at other rates."""


def resolve(*layers: Settings) -> Config:
    """The settings of a run; see `resolve_as`."""
    return resolve_as(Config, *layers)


def resolve_as(cls: type[T], *layers: Settings) -> T:
    """The settings of the given layers, later ones on top of earlier ones, on top of the defaults of `cls`.

    cls: a dataclass of sections, as Config is. Raises ValueError naming section, key and value for whatever is unknown,
    of a wrong type or impossible.
    """
    merged: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for section, values in layer.items():
            if not isinstance(values, Mapping):
                raise ValueError(f"{section}: expected a table of settings, got {values!r}")
            known = merged.setdefault(section, {})
            if "use" in values and values["use"] != known.get("use"):
                known.clear()
            known.update(values)
    sections = {f.name: f for f in dataclasses.fields(cast(Any, cls))}
    for section in merged:
        if section not in sections:
            raise ValueError(f"unknown section {section!r}; there are {', '.join(sections)}")
    return cls(**{name: _build(sections[name], values) for name, values in merged.items()})


def read_recipe(path: Path) -> Settings:
    """The settings of a TOML file; raises ValueError naming the file if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"recipe: cannot read {str(path)!r}: {error}") from error


def to_toml(config: Config) -> str:
    """A recipe that resolves to the same settings."""
    tables = {}
    for section in dataclasses.fields(Config):
        value = getattr(config, section.name)
        table = {k: v for k, v in dataclasses.asdict(value).items() if v is not None}
        tables[section.name] = {"use": _name(section, value)} | table if is_exchangeable(section) else table
    return tomli_w.dumps(tables)


def is_exchangeable(section: dataclasses.Field[Any]) -> bool:
    """Whether the class of a section can be chosen with `use`."""
    return getattr(section.type, "_is_protocol", False)


def _build(section: dataclasses.Field[Any], values: Mapping[str, Any]) -> Any:
    """An instance of the section's class, or of the one that `use` names, on top of the section's defaults."""
    default: Any = section.default
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "use"}
    chosen = type(default)
    if "use" in values:
        if not is_exchangeable(section):
            raise ValueError(f"{section.name}.use: this section has one class, {chosen.__name__}")
        chosen = _find(section, str(values["use"]))
    known = [f.name for f in dataclasses.fields(chosen)]
    for key, value in fields.items():
        if key not in known:
            names = ", ".join(known) or "none"
            raise ValueError(f"{section.name}.{key}: unknown setting; {chosen.__name__} has {names}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{section.name}.{key}: must be a finite number, got {value}")
    base = {name: getattr(default, name) for name in known} if chosen is type(default) else {}
    hints = get_type_hints(chosen, include_extras=True)
    checked = {key: _checked(f"{section.name}.{key}", hints[key], value) for key, value in fields.items()}
    try:
        return chosen(**base | checked)
    except ValueError as error:
        message = str(error)
        raise ValueError(f"{section.name}{'.' if message.split(maxsplit=1)[0] in known else ': '}{message}") from error
    except TypeError as error:
        raise ValueError(f"{section.name}: {chosen.__name__} cannot be made: {error}") from error


def _find(section: dataclasses.Field[Any], use: str) -> type:
    """The dataclass that `use` names; it must be callable as the section's protocol is."""
    module, _, name = use.rpartition(":")
    try:
        chosen = getattr(importlib.import_module(module or _home(section)), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{section.name}.use: cannot find {use!r}: {error}") from error
    if not (isinstance(chosen, type) and dataclasses.is_dataclass(chosen)):
        raise ValueError(f"{section.name}.use: {use!r} is not a dataclass")
    wanted, given = _arguments(section.type), _arguments(chosen)
    if given != wanted:
        raise ValueError(f"{section.name}.use: {use!r} is called with {given}, but must be with {wanted}")
    return chosen


def _arguments(cls: Any) -> list[str]:
    """Names of the arguments that instances of a class are called with; none if they are not called."""
    calls = [vars(c)["__call__"] for c in cls.__mro__ if "__call__" in vars(c)]
    return list(inspect.signature(calls[0]).parameters)[1:] if calls else []


def _name(section: dataclasses.Field[Any], value: object) -> str:
    cls = type(value)
    return cls.__name__ if cls.__module__.startswith(_home(section) + ".") else f"{cls.__module__}:{cls.__name__}"


def _home(section: dataclasses.Field[Any]) -> str:
    """The package in which a bare class name is looked up: that of the section's default."""
    return type(section.default).__module__.rpartition(".")[0]


def _checked(place: str, hint: Any, value: object) -> Any:
    """The value if it is of the type that its setting declares; no text is taken for a number, no number for a flag."""
    try:
        return TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        raise ValueError(f"{place}: {error.errors()[0]['msg']}, got {value!r}") from error
    except PydanticSchemaGenerationError as error:
        raise ValueError(f"{place}: a setting of type {hint!r} cannot stand in a recipe") from error
