"""Checks of a model that anybody may have made, before a library loads it: its files, sizes, and tokenizer."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from treepo.errors import SettingError
from treepo.utils.files import check_plain, read_plain
from treepo.utils.limits import fails_apart

if TYPE_CHECKING:
    from treepo.model.sources import ModelSource

CONFIG_BYTES = 16 << 20
"""Longest config.json."""

MAX_LAYERS = 500
"""The deepest models have a few hundred."""

MAX_SIZE = 10**8
"""Of anything that is counted or measured, such as heads, experts, hidden dimensions, tokens of a vocabulary."""

LAYERS = re.compile(r"(^|_)(n_layers?|num_layers|num_hidden_layers|num_\w+_layers|n_\w+_layers|\w*_?layers)$")
SIZES = re.compile(r"^(n|num|d)_|_(size|dim|rank|heads|experts|groups|width|channels)$")

PROBE_S = 10.0
CONVERTING_S = 30.0
PROBE_BYTES = 4 << 30
PROBE_TEXT = f"What is 12 + 30?\n  Let's add: 12 + 30 = 42, \\boxed{{42}}. {40 * 'a'}!"
"""Words, digits, blanks and a run of one letter, on which careless patterns take time that doubles with each."""


def check_model_files(folder: Path) -> None:
    """Raise SettingError if a folder holds a pipe or a device, which would be read without an end, or settings that are
    too long."""
    for path in [*folder.glob("*"), *folder.glob("additional_chat_templates/*")]:
        try:
            check_plain(path.stat(), str(path))
        except FileNotFoundError:
            # A link to nothing: whoever needs it says so.
            continue
        except OSError as error:
            raise SettingError("model.path", f"{str(path)[:200]!r}: {error.strerror}") from error
    for config in (folder / "config.json", folder / "generation_config.json"):
        if not config.is_file():
            continue
        try:
            read_plain(config, CONFIG_BYTES)
        except OSError as error:
            raise SettingError("model.path", f"cannot read {str(config)[:200]!r}: {error.strerror}") from error


def check_before_loading(source: "ModelSource", load_tokenizer: Callable[[], PreTrainedTokenizerBase]) -> None:
    """Raise SettingError for a model that would take any time or memory to load, or whose tokenizer would."""
    check_config_sizes(PreTrainedConfig.get_config_dict(source.base, revision=source.revision)[0])
    if (folder := Path(source.tokenizer)).is_dir():
        check_tokenizer(load_tokenizer, folder)


def check_config_sizes(config: Mapping[str, Any]) -> None:
    """Raise SettingError for numbers in a model's config that no model has: it would be built for hours first."""
    for name, value in _numbers(config):
        most = MAX_LAYERS if LAYERS.search(name) else MAX_SIZE if SIZES.search(name) else None
        if most is not None and value > most:
            raise SettingError("model.path", f"{name} is {value!r:.40} in its config.json; at most {most} can be")


def _numbers(table: Mapping[str, Any]) -> Iterator[tuple[str, int | float]]:
    """The numbers of a table and of the tables in it, such as `text_config`."""
    tables = [table]
    while tables:
        for name, value in tables.pop().items():
            if isinstance(value, Mapping):
                tables.append(value)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                yield name, value


def check_tokenizer(load: Callable[[], PreTrainedTokenizerBase], folder: Path) -> None:
    """Raise SettingError unless a folder's tokenizer loads, and encodes, templates and decodes a text, within limits.

    This happens in a copy of this process: a normalizer or a template may take any time and memory, and nothing could
    stop it here. Whatever else is wrong with it is found when it is used.
    """

    def work() -> None:
        try:
            tokenizer = load()
            ids = tokenizer.encode(PROBE_TEXT, verbose=False)
            tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            if tokenizer.chat_template:
                turns = [{"role": "user", "content": PROBE_TEXT}]
                text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
                tokenizer.encode(str(text), add_special_tokens=False, verbose=False)
        except MemoryError:
            os.abort()
        except Exception:  # noqa: BLE001 - it is raised again, in its own words, where it matters
            return

    # Others are converted first, which takes a while.
    seconds = PROBE_S if (folder / "tokenizer.json").is_file() else CONVERTING_S
    if reason := fails_apart(work, seconds, PROBE_BYTES):
        raise SettingError("model.path", f"its tokenizer or chat template: {reason}")
