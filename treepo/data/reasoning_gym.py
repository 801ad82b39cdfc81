"""Problems of the library reasoning-gym, made as they are needed: `reasoning_gym:chain_sum?max_terms=3`.

An entry is a function of the dataset's name, its options, a seed and an index, so nothing is kept anywhere.
"""

import dataclasses
import importlib
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import unquote

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from treepo.data.locations import LibrarySource
from treepo.errors import RecordError
from treepo.utils.text import error_line

logger = logging.getLogger(__name__)

PREFIX = "reasoning_gym:"

ENTRIES_PER_SEED = 500
"""Entries that are taken of one dataset of the library, whose default size it is. Entry i is made from seed + i, so
the seeds of the datasets that follow one another lie far apart."""

HASH_DEPENDENT = (
    *("codeio", "intermediate_integration", "isomorphic_strings", "knight_swap", "list_functions"),
    *("polynomial_multiplication", "ransom_note", "word_ladder"),
)
"""Datasets of reasoning-gym 0.1.25 whose entries depend on Python's hashes of texts, besides the seed."""

OWN_SETTINGS = {
    "seed": "is derived from train.seed and data.eval_seed",
    "size": "has no meaning: problems are made without end; data.eval_size says how many are held out",
}

INSTALL = "needs the package reasoning-gym: pip install 'treepo[reasoning-gym]'"


def is_gym(text: str) -> bool:
    """Whether a source, as settings give it, is a dataset of reasoning-gym."""
    return text.startswith(PREFIX)


class GymSource(LibrarySource):
    """A dataset of reasoning-gym."""


def make_entry(spec: str, seed: int, index: int) -> dict[str, Any] | None:
    """Entry `index` of `reasoning_gym.create_dataset(NAME, seed=seed, size=ENTRIES_PER_SEED, **options)`.

    None, with a warning, where the library's generator raises.
    """
    try:
        return open_dataset(spec, seed)[index]
    # A generator may raise anything, and one entry is not worth a run.
    except Exception as error:  # noqa: BLE001
        logger.warning("reasoning-gym cannot make entry %d of %s, seed %d: %r", index, spec, seed, error)
        # Some generators change their dataset before they raise.
        open_dataset.cache_clear()
        return None


def as_literals(entry: Any) -> str:
    """An entry as Python literals, which `ast.literal_eval` reads: JSON has no tuples, by which some scorers compare.

    Numbers and texts of NumPy become Python's; a value of another kind its text.
    """
    return repr(_as_literal(entry))


def _as_literal(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_as_literal(key): _as_literal(inner) for key, inner in value.items()}
    for kind in (list, tuple, set):
        if isinstance(value, kind):
            return kind(map(_as_literal, value))
    if value is None or isinstance(value, bool):
        return value
    plain = value.item() if hasattr(value, "item") else value
    for kind in (bool, int, float):
        if isinstance(plain, kind):
            # A number that is not finite is no literal.
            return kind(plain) if math.isfinite(plain) else str(plain)
    return str.__str__(plain) if isinstance(plain, str) else str(plain)


def check_installed() -> None:
    """Raise RecordError without the library."""
    _import("factory")


def check_repeatable(name: str) -> None:
    """Raise RecordError for a dataset whose problems are others in every process, unless Python's hashes are fixed."""
    if name in HASH_DEPENDENT and os.environ.get("PYTHONHASHSEED", "random") in {"", "random"}:
        message = "goes through sets of texts, whose order Python changes in every process"
        raise RecordError(f"{name!r} of reasoning-gym {message}: start with PYTHONHASHSEED=0 in the environment")


@lru_cache(maxsize=32)
def open_dataset(spec: str, seed: int) -> Any:
    """The library's dataset of a name with options; raises RecordError for what the library does not have or takes."""
    name, _, text = spec.partition("?")
    factory = _import("factory")
    # Its parts are what several sources with data.weights are here.
    names = sorted(factory.DATASETS.keys() - {"composite"})
    if name not in names:
        raise RecordError(f"no dataset {name!r} in reasoning-gym{_meant(name, names)}")
    config = factory.DATASETS[name][1]
    try:
        return factory.create_dataset(name, **read_options(config, text), seed=seed, size=ENTRIES_PER_SEED)
    # The library checks options with assert.
    except (AssertionError, TypeError, ValueError) as error:
        raise RecordError(f"{PREFIX}{spec}: the library refuses these options ({error_line(error)})") from error


def _import(module: str) -> Any:
    try:
        return importlib.import_module(f"reasoning_gym.{module}")
    except ImportError as error:
        raise RecordError(f"{PREFIX} {INSTALL} ({error_line(error)})") from error


def read_options(config: type, text: str) -> dict[str, Any]:
    """The options in OPTION=VALUE&OPTION=VALUE, typed as the fields of a config of the library.

    A value is JSON, or text as it stands; where the field is a list, a value without brackets is one of parts between
    commas. %26 stands for &. Raises RecordError for unknown names and values of another type.
    """
    hints = get_type_hints(config)
    # The library writes int for some numbers that are not whole.
    hints |= {f.name: float for f in dataclasses.fields(config) if isinstance(f.default, float)}
    names = [f.name for f in dataclasses.fields(config) if f.name not in OWN_SETTINGS]
    options: dict[str, Any] = {}
    for part in text.split("&") if text else ():
        name, sign, value = part.partition("=")
        if name in OWN_SETTINGS:
            raise RecordError(f"{PREFIX} option {name!r} {OWN_SETTINGS[name]}")
        if name not in names:
            raise RecordError(f"{config.__name__} of reasoning-gym has no {name!r}{_meant(name, names)}")
        if not sign:
            raise RecordError(f"{PREFIX} option {name!r} needs a value: {name}=...")
        if name in options:
            raise RecordError(f"{PREFIX} option {name!r} is given twice")
        options[name] = _typed(name, hints[name], unquote(value))
    return options


def _typed(name: str, hint: Any, text: str) -> Any:
    # Written tuple[str], meant are several.
    if get_origin(hint) is tuple and len(get_args(hint)) == 1:
        hint = tuple[get_args(hint)[0], ...]
    try:
        return TypeAdapter(hint).validate_json(_as_json(hint, text), strict=True)
    except ValidationError as error:
        raise RecordError(f"{PREFIX} option {name!r}: {error.errors()[0]['msg']}, got {text!r:.100}") from error
    except PydanticSchemaGenerationError as error:
        raise RecordError(f"{PREFIX} option {name!r} of type {hint!r} cannot be written") from error


def _as_json(hint: Any, text: str) -> str:
    """The value as JSON that pydantic reads strictly: no number where a text belongs, and no text for a number."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if type(None) in parts:
        return text if text == "null" else _as_json(next(one for one in parts if one is not type(None)), text)
    if kind in (list, tuple, Sequence) and not text.startswith("["):
        return f"[{','.join(_as_json((*parts, Any)[0], part) for part in text.split(','))}]"
    if kind in (str, Literal):
        return json.dumps(text)
    try:
        # NaN and Infinity, which Python's JSON has, are none.
        json.loads(text, parse_constant=_no_number)
    except ValueError:
        return json.dumps(text)
    return text


def _no_number(text: str) -> None:
    raise ValueError(text)


def _meant(name: str, names: Sequence[str]) -> str:
    close = get_close_matches(name, names, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else f"; there are {', '.join(names)}"
