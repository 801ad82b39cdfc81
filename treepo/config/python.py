"""The settings of a run as a Python program gives them: sections, and what everyone sets by the names of TRL."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from treepo.config.load import read_recipe, resolve
from treepo.config.schema import BUILT_IN_TASK, Config, Settings
from treepo.config.suggest import suggest
from treepo.errors import SettingError, named_as_typed
from treepo.utils.io import new_folder

FLAT = {
    "max_steps": "train.num_steps",
    "prompts_per_step": "train.prompts_per_step",
    "num_iterations": "train.num_iterations",
    "seed": "train.seed",
    "gradient_checkpointing": "train.gradient_checkpointing",
    "learning_rate": "optim.lr",
    "warmup_steps": "optim.warmup_steps",
    "weight_decay": "optim.weight_decay",
    "max_grad_norm": "optim.max_grad_norm",
    "num_generations": "tree.width",
    "max_completion_length": "tree.max_response_len",
    "max_prompt_length": "data.max_prompt_len",
    "temperature": "engine.temperature",
    "beta": "penalties.kl_coef",
    "eval_at_start": "eval.at_start",
    "eval_steps": "eval.every",
    "save_steps": "checkpoint.every",
    "save_total_limit": "checkpoint.keep",
    "report_to": "tracking.trackers",
    "run_name": "tracking.run_name",
}
"""Arguments of TreePOConfig that stand for one setting each, mostly by TRL's names."""


@dataclass(kw_only=True)
class TreePOConfig:
    """Settings of a `TreePOTrainer`: a recipe, sections, and what everyone sets by itself; later ones win.

    output_dir: the folder of the run; runs/TIME if not given. recipe: the path of a TOML file. Each section (model,
    data, tree, credit, loss, train, ...; see docs/settings.md) is a dict of settings or an object, such as
    `tree={"width": 8}` or `credit=GRPO()`. The arguments from `max_steps` on each stand for one setting, which the
    list `FLAT` names. bf16: train.autocast = "bfloat16".
    """

    output_dir: str | Path | None = None
    recipe: str | Path | None = None

    model: Any = None
    data: Any = None
    task: Any = None
    prompt: Any = None
    verifier: Any = None
    verifier_pool: Any = None
    tree: Any = None
    initial_fork: Any = None
    branching: Any = None
    fallback: Any = None
    stopping: Any = None
    environment: Any = None
    engine: Any = None
    vllm: Any = None
    servers: Any = None
    reward: Any = None
    credit: Any = None
    lora: Any = None
    loss: Any = None
    aggregation: Any = None
    penalties: Any = None
    optim: Any = None
    train: Any = None
    dynamic_sampling: Any = None
    eval: Any = None
    tracking: Any = None
    checkpoint: Any = None
    processes: Any = None

    max_steps: int | None = None
    prompts_per_step: int | None = None
    num_iterations: int | None = None
    seed: int | None = None
    gradient_checkpointing: bool | None = None
    bf16: bool | None = None
    learning_rate: float | None = None
    warmup_steps: int | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    num_generations: int | None = None
    max_completion_length: int | None = None
    max_prompt_length: int | None = None
    temperature: float | None = None
    beta: float | None = None
    eval_at_start: bool | None = None
    eval_steps: int | None = None
    save_steps: int | None = None
    save_total_limit: int | None = None
    report_to: str | list[str] | tuple[str, ...] | None = None
    run_name: str | None = None

    def __new__(cls, *_: Any, **given: Any) -> "TreePOConfig":
        """Raise SettingError for an argument that there is not, with the one that may be meant."""
        known = [f.name for f in fields(cls)]
        for name in given:
            if name not in known:
                raise SettingError(name, f"no such argument of TreePOConfig{_meant(name, known)}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if self.output_dir == "":
            raise SettingError("output_dir", "no folder given")
        for name in ("output_dir", "recipe"):
            if not isinstance(path := getattr(self, name), str | Path | None):
                raise SettingError(name, "must be a path", path)
        # Says what is wrong here, not when training begins.
        with named_as_typed(self.typed):
            self.resolve()

    @property
    def typed(self) -> dict[str, str]:
        """The arguments that were given in place of settings, by these."""
        typed = {path: name for name, path in FLAT.items() if getattr(self, name) is not None}
        return {"out": "output_dir", **typed, **({} if self.bf16 is None else {"train.autocast": "bf16"})}

    def folder(self) -> Path:
        """The folder of the run; one that is named after the time if none is given. ~ is the home folder."""
        return new_folder() if self.output_dir is None else Path(self.output_dir).expanduser()

    def resolve(self, *layers: Mapping[str, Any], is_built_in_task: bool = False) -> Config:
        """All settings; raises SettingError. layers: above what is given here. is_built_in_task: start from its own."""
        base: Settings = BUILT_IN_TASK if is_built_in_task and self.recipe is None else {}
        recipe = read_recipe(Path(self.recipe)) if self.recipe is not None else {}
        sections = {f.name: value for f in fields(Config) if (value := getattr(self, f.name)) is not None}
        return resolve(base, recipe, sections, self._flat(), *layers)

    def _flat(self) -> dict[str, dict[str, Any]]:
        """The settings that the flat arguments stand for, by section."""
        found: dict[str, dict[str, Any]] = {}
        for name, path in FLAT.items():
            value = getattr(self, name)
            if value is not None and not (name == "report_to" and value == "none"):
                section, key = path.split(".")
                found.setdefault(section, {})[key] = value
        if self.bf16 is not None:
            found.setdefault("train", {})["autocast"] = "bfloat16" if self.bf16 else "none"
        return found


def _meant(name: str, known: list[str]) -> str:
    """Which argument, or which setting of a section, a wrong name may stand for."""
    settings = [f"{f.name}.{key.name}" for f in fields(Config) for key in fields(cast(Any, type(f.default)))]
    found = suggest(name, settings).partition("did you mean --")[2].rstrip("?")
    flat = {path: argument for argument, path in FLAT.items()}
    if not found:
        close = get_close_matches(name, known, n=1)
        return f"; did you mean {close[0]}?" if close else ""
    section, _, key = found.partition(".")
    return f"; did you mean {flat.get(found) or f'{section}={{{key!r}: ...}}'}?"
