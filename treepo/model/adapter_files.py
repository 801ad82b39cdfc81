"""A folder with a LoRA adapter as peft saves it, read without peft: anybody may have made it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils.hub import cached_file

from treepo.errors import SettingError
from treepo.model.safety import CONFIG_BYTES, check_model_files
from treepo.utils.files import read_plain
from treepo.utils.foreign_errors import first_line

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

PREFIX = "base_model.model."
"""What peft puts before the names of the base's modules."""

MAX_RANK = 10_000
"""Larger than the full rank of any map that adapters are worth it for."""

REFUSED = ("use_dora", "use_qalora", "use_bdlora", "alora_invocation_tokens", "layer_replication", "target_parameters")
"""Settings of peft under which an adapter is no product of two matrices beside each linear map."""

PLAIN_NAME = re.compile(r"[\w.]+")
"""A name in a pattern of ranks; peft takes others for regular expressions, which may take any time."""


HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
IGNORED = ("gated_repo", "missing_entries", "connection_errors")
"""What may keep a file from being found."""

TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.*",
    "merges.txt",
)


def is_adapter_folder(path: str) -> bool:
    """Whether a path is a folder with an adapter and no model."""
    try:
        return (Path(path) / ADAPTER_CONFIG).is_file() and not (Path(path) / "config.json").is_file()
    except OSError:
        return False


def local_adapter(path: str, setting: str, revision: str | None = None) -> str:
    """The folder of an adapter that is named as it is on the hub, downloaded; any other path as it is.

    Raises SettingError if a repository holds an adapter that cannot be downloaded, or not as safetensors.
    """
    if not HUB_NAME.fullmatch(path) or Path(path).exists():
        return path
    find = partial(cached_file, path, revision=revision, **{f"_raise_exceptions_for_{kind}": False for kind in IGNORED})
    try:
        is_adapter = find(ADAPTER_CONFIG) is not None and find("config.json") is None
    except OSError:
        # There is no such repository, or no way to it: whoever loads the model says it.
        return path
    if not is_adapter:
        return path
    try:
        return snapshot_download(path, revision=revision, allow_patterns=[ADAPTER_CONFIG, ADAPTER_WEIGHTS, *TOKENIZER])
    # The hub's client raises errors of several libraries.
    except Exception as error:
        raise SettingError(setting, f"cannot download the adapter {path!r}: {first_line(error)}") from error


def adapter_base(folder: Path) -> str:
    """The model that a folder's adapter is for, a folder or a name; raises SettingError for model.path without one."""
    with _reading(folder, "model.path"):
        base = _read_config(folder).get("base_model_name_or_path")
        if not isinstance(base, str) or not base:
            raise SettingError("base", "it names no base_model_name_or_path; see lora.path")
        return base


def read_adapter(folder: Path, setting: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(arguments of peft's LoraConfig, the adapter's tensors by the names of the base's modules).

    setting: the one that names the folder. Raises SettingError for one that cannot be read or is no LoRA adapter.
    """
    with _reading(folder, setting):
        values = _read_config(folder)
        tensors = load_file(folder / ADAPTER_WEIGHTS)
        names = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
        return _arguments(values, names), names


def _read_config(folder: Path) -> dict[str, Any]:
    check_model_files(folder)
    return TypeAdapter(dict[str, Any]).validate_json(read_plain(folder / ADAPTER_CONFIG, CONFIG_BYTES))


@contextmanager
def _reading(folder: Path, setting: str) -> Iterator[None]:
    """Let an error say which setting named the folder."""
    try:
        yield
    except SettingError as error:
        raise SettingError(setting, f"cannot use the adapter in {str(folder)!r}: {error.message}") from error
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        reason = f"no {ADAPTER_WEIGHTS}" if isinstance(error, FileNotFoundError) else first_line(error)
        raise SettingError(setting, f"cannot read the adapter in {str(folder)[:200]!r}: {reason}") from error


def _arguments(values: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    if values.get("peft_type") != "LORA":
        raise SettingError("peft_type", "only LORA is supported", values.get("peft_type"))
    if values.get("bias", "none") != "none":
        raise SettingError("bias", "only 'none' is supported", values["bias"])
    if found := [name for name in REFUSED if values.get(name)]:
        raise SettingError(found[0], f"{found[0]} is not supported")
    try:
        targets, saved = (_names(values.get(name)) for name in ("target_modules", "modules_to_save"))
        ranks = TypeAdapter(dict[str, int]).validate_python(values.get("rank_pattern") or {})
        alphas = TypeAdapter(dict[str, float]).validate_python(values.get("alpha_pattern") or {})
        rank, alpha = TypeAdapter(tuple[int, float]).validate_python((values.get("r"), values.get("lora_alpha")))
    except ValidationError as error:
        raise SettingError(ADAPTER_CONFIG, f"{ADAPTER_CONFIG}: {error.errors()[0]['msg']}") from error
    if any(not 1 <= one <= MAX_RANK for one in (rank, *ranks.values())):
        raise SettingError("r", f"ranks must be within 1..{MAX_RANK}")
    if odd := [name for name in (*ranks, *alphas) if not PLAIN_NAME.fullmatch(name)]:
        raise SettingError("rank_pattern", f"{odd[0]!r} is no name of a module")
    # Its weights name the modules, whatever pattern chose them.
    targets = targets or sorted({name.partition(".lora_")[0] for name in tensors if ".lora_" in name})
    return {
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": targets,
        "modules_to_save": saved or None,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "use_rslora": bool(values.get("use_rslora")),
    }


def _names(value: object) -> list[str]:
    """A list of names; nothing for a pattern."""
    return [] if value is None or isinstance(value, str) else TypeAdapter(list[str]).validate_python(value)
