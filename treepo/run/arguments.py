"""What a program gives to `TreePOTrainer`, as settings."""

import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from treepo.config.schema import Config
from treepo.data.locations import Records
from treepo.envs.settings import name_of
from treepo.envs.tools import get_reward
from treepo.errors import SettingError
from treepo.utils import GIVEN
from treepo.verify.reward_functions import import_function
from treepo.verify.rewards import ShapedReward
from treepo.verify.verifiers import NoVerifier

MAX_ROWS = 1_000_000
"""Rows that are taken of a dataset without an end, at most."""


OTHER_NAMES = {
    "args": "config",
    "peft_config": "TreePOConfig(lora={...})",
    "quantization_config": "TreePOConfig(lora={...})",
    "optimizers": "TreePOConfig(optim={...})",
    "reward_processing_classes": "RewardModel(model, tokenizer)",
}
"""Arguments of TRL's trainers, and what does it here."""


def _listed(given: Any) -> list[Any]:
    """What is given as one or several, as a list."""
    return list(given) if isinstance(given, list | tuple) else [] if given is None else [given]


def check_names(others: Mapping[str, object]) -> None:
    """Raise SettingError if there are arguments that TreePOTrainer has not."""
    for name in others:
        meant = f"; did you mean {OTHER_NAMES[name]}?" if name in OTHER_NAMES else ""
        raise SettingError(name, f"no such argument of TreePOTrainer{meant}")


def checked_callbacks(callbacks: Any, base: type) -> list[Any]:
    """The callbacks as a list. base: the class of those that are no functions. Raises SettingError for those that would
    never be called, or not as they expect."""
    listed = _listed(callbacks)
    hooks = {name: hook for name, hook in vars(base).items() if name.startswith("on_")}
    for one in listed:
        if isinstance(one, type) or not (isinstance(one, base) or callable(one)):
            message = f"are objects of a subclass of treepo.{base.__name__}, or functions f(trainer, step)"
            raise SettingError("callbacks", message, one)
        if not isinstance(one, base) and not _takes(one, 2):
            raise SettingError("callbacks", "is called as f(trainer, step), which it does not take", one)
        if isinstance(one, base) and all(getattr(getattr(one, n), "__func__", None) is h for n, h in hooks.items()):
            raise SettingError("callbacks", f"{type(one).__name__} overrides none of {', '.join(hooks)}")
    return listed


def _takes(function: Callable[..., Any], num_arguments: int) -> bool:
    """Whether a function can be called with as many arguments by position."""
    try:
        inspect.signature(function).bind(*[None] * num_arguments)
    except TypeError:
        return False
    except ValueError:
        # Builtins without a signature.
        return True
    return True


def typed_arguments(
    model: Any, reward_funcs: Any, train_dataset: Any, eval_dataset: Any, **environments: Any
) -> dict[str, str]:
    """The arguments that were given in place of settings, by these. environments: tools, environment_factory and
    environment."""
    given = {
        "model.path": ("model", bool(model) if isinstance(model, str | Path) else True),
        "reward.functions": ("reward_funcs", bool(reward_funcs)),
        "verifier": ("reward_funcs", bool(reward_funcs)),
        "data.train": ("train_dataset", train_dataset is not None),
        "data.eval": ("eval_dataset", eval_dataset is not None),
        "environment.tools": ("tools", bool(environments.get("tools"))),
        "environment.tool_factory": ("environment_factory", environments.get("environment_factory") is not None),
        "environment.factory": ("environment", environments.get("environment") is not None),
    }
    return {setting: argument for setting, (argument, is_given) in given.items() if is_given}


def model_layer(model: Any) -> dict[str, Any]:
    """The setting that names a model; of a loaded one, where it came from. Raises SettingError for neither."""
    if isinstance(model, str | Path):
        return {"model": {"path": str(model)}} if str(model) else {}
    if isinstance(model, type) or not hasattr(getattr(model, "config", None), "get_text_config"):
        raise SettingError("model", "must be a folder, a name, or a loaded model of transformers", model)
    return {"model": {"path": str(getattr(model.config, "_name_or_path", "")) or f"{GIVEN}{type(model).__name__}"}}


def environment_layer(environment: Callable[[], Any] | None, config: Config, has_rewards: bool) -> dict[str, Any]:
    """The settings of an environment that is given: what it gives counts, and without other rewards nothing else.

    config: the other settings.
    """
    if environment is None:
        return {}
    if not callable(environment):
        raise SettingError("environment", "must be a class, or something else that makes one when called", environment)
    layer: dict[str, Any] = {"environment": {"factory": name_of(environment)}}
    weight = getattr(config.reward, "environment", 0.0) or 1.0
    if not isinstance(config.reward, ShapedReward):
        return layer
    if has_rewards or config.reward.functions:
        return layer | {"reward": {"environment": weight}}
    return layer | {"reward": {"environment": weight, "correct": 0.0}, "verifier": NoVerifier()}


def tool_layer(tools: Any, factory: Any) -> dict[str, Any]:
    """The settings of tools that are given: one, or several."""
    listed = tuple(_listed(tools))
    given = {name: value for name, value in (("tools", listed), ("tool_factory", factory)) if value}
    if any(not isinstance(one, str) and not callable(one) for one in (*listed, *([factory] if factory else ()))):
        raise SettingError("tools", "must be functions, or a class as environment_factory", [*listed, factory])
    return {"environment": given} if given else {}


def with_own_reward(
    factory: Any, reward_funcs: Any, reward_weights: Sequence[float] | None
) -> tuple[Any, Sequence[float] | None]:
    """Reward functions and weights, with `get_reward` of TRL's environments if they have it, at weight 1."""
    if factory is None or isinstance(factory, str):
        return reward_funcs, reward_weights
    made = factory if isinstance(factory, type) else factory()
    if not hasattr(made, "get_reward"):
        return reward_funcs, reward_weights
    functions = _listed(reward_funcs)
    return [*functions, get_reward], None if reward_weights is None else [*reward_weights, 1.0]


def reward_layer(
    reward_funcs: Any, reward_weights: Sequence[float] | None, *, is_built_in_task: bool = False
) -> dict[str, Any]:
    """The settings of verifier and rewards: the first verifier judges, functions are added by their weights.

    is_built_in_task: without a verifier, functions are added to what that task says itself.
    """
    functions = _listed(reward_funcs)
    if not functions:
        if reward_weights is not None:
            raise SettingError("reward_weights", "needs reward_funcs", list(reward_weights))
        return {}
    weights = _weights(reward_weights, len(functions))
    judges = [i for i, one in enumerate(functions) if hasattr(one, "example_response")]
    if len(judges) > 1:
        name = type(functions[judges[1]]).__name__
        raise SettingError("reward_funcs", f"has two verifiers; call {name} in a function of yours", name)
    if any(not isinstance(one, str) and not callable(one) for one in functions):
        raise SettingError("reward_funcs", "must be functions, verifiers, reward models or their names", functions)
    others = [i for i in range(len(functions)) if i not in judges]
    judges_itself = is_built_in_task and not judges
    reward: dict[str, Any] = {} if judges_itself else {"correct": weights[judges[0]] if judges else 0.0}
    if others:
        reward["functions"] = [functions[i] for i in others]
        reward["function_weights"] = [weights[i] for i in others]
    if judges_itself:
        return {"reward": reward}
    return {"reward": reward, "verifier": functions[judges[0]] if judges else NoVerifier()}


def _weights(given: Any, count: int) -> list[float]:
    """The weights of as many reward functions, 1 each if none are given; raises SettingError."""
    try:
        weights = [1.0] * count if given is None else [float(weight) for weight in given]
    except (TypeError, ValueError):
        weights = []
    if len(weights) != count or not all(math.isfinite(weight) for weight in weights):
        raise SettingError("reward_weights", f"needs a number for each of {count} reward_funcs", given)
    return weights


def data_layer(config: Config, train: Any, evaluation: Any) -> tuple[dict[str, Any], dict[str, Records]]:
    """(the settings that name the datasets that are given, the rows among them by what stands for them).

    config: the other settings, which say how many rows of something without an end a run needs.
    """
    per_step = config.max_problems_per_step
    needed = {"train_dataset": max(1, config.train.num_steps) * per_step, "eval_dataset": config.eval.num_problems}
    layer: dict[str, Any] = {}
    records: dict[str, Records] = {}
    for key, name, given in (("train", "train_dataset", train), ("eval", "eval_dataset", evaluation)):
        if given is not None:
            layer[key] = _sources(name, given, max(needed[name], 1), records)
    return {"data": layer}, records


def _sources(name: str, given: Any, needed: int, records: dict[str, Records]) -> list[str]:
    if isinstance(given, str | Path):
        return [str(given)]
    if isinstance(given, list | tuple) and given and all(isinstance(item, str | Path) for item in given):
        return [str(item) for item in given]
    # What has a length has an end: all of it is used, as epochs need it.
    rows = Records.of(name, given, sys.maxsize if hasattr(given, "__len__") else min(needed, MAX_ROWS))
    records[rows.setting] = rows
    return [rows.setting]


def check_arguments(config: Config, model: Any) -> None:
    """Raise SettingError for a reward function or verifier that cannot be found, and for settings that a loaded model
    decides."""
    if model is not None:
        named = [("model", f.name, f.default, getattr(config.model, f.name)) for f in fields(config.model)]
        named.append(("lora", "load_in_4bit", False, config.lora.load_in_4bit))
        for section, name, default, value in named:
            if name != "path" and value != default:
                raise SettingError(f"{section}.{name}", "is that of the loaded model; load it as it should be", value)
    config.check_whole()
    config.environment.tool_set()
    verifier = type(config.verifier)
    if verifier.__module__ == "__main__":
        message = (
            "is imported by processes of its own: define it in a file beside the script, or reward with a function"
        )
        raise SettingError("verifier", message, verifier.__name__)
    for function in getattr(config.reward, "functions", ()):
        # A reward model is loaded with everything else.
        if isinstance(function, str) and ":" in function:
            try:
                import_function(function)
            except SettingError as error:
                raise error.within("reward") from error
