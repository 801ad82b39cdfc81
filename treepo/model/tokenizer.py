"""The tokenizer of a model: the one in its tokenizer.json, loaded and saved unchanged.

transformers 5 rebuilds the tokenizers of some classes from their vocabulary, with the normalizer and pre-tokenizer that
the class has, whatever tokenizer.json says: a Llama whose `tokenizer_class` is GPT2Tokenizer loses its individual
digits. The model has never seen such ids. So the ids of probe texts are compared with those of the file.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from treepo.errors import SettingError
from treepo.utils.foreign_errors import first_line

logger = logging.getLogger(__name__)

TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"

FILES = (
    *(TOKENIZER_FILE, CONFIG_FILE, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.json", "merges.txt", "tokenizer.model"),
)
"""What makes up a tokenizer, for this program and others."""

PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Names of the class that takes tokenizer.json as it is; transformers 4 and 5 know the first."""

MAX_PROBED_TOKENS = 100

PROBES = (
    "12345 1,234.56 = 7^10 + 0.001 - 3/4; 2024-11-30, 1e-5, x1y22",
    "The quick brown fox doesn't jump: it's they're I'll we've you'd I'm, DON'T.",
    " leading, trailing ",
    "a  b   c    d\t\te \n f\n\ng\n\n\n\nh\r\n  i\n\tj",
    "\\boxed{\\frac{1}{2}} $x^{2}+y_{1} \\leq \\sqrt{3}$ \\[ \\]",
    "def f(x):\n    return [i ** 2 for i in range(10) if i != 3]  # {'a': 1}\n",
    "na\u00efve caf\u00e9 cafe\u0301 \u00c5ngstr\u00f6m \u0130stanbul stra\u00dfe \u01c4 \ufb01 \u00bd \u00b2 \u2460",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\uff11\uff12\uff13 \u3053\u3093\u306b \u30ab\u30bf \ud55c\uad6d\uc5b4",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u0393\u03b5\u03b9\u03ac \u0645\u0631\u062d \u0661\u0662\u0663",
    "\u05e9\u05dc\u05d5 \u0e2a\u0e27\u0e31",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0967\u0968",
    "\U0001f600\U0001f468\u200d\U0001f469 \u2192 \u2264 \u221e \u00a0\u2009\u200b \u201cquoted\u201d \u2014 \u2026",
    "CamelCase snake_case UPPER lower http://a.b/c?d=e&f#g user@host !!! ??? ...",
    "\u2581a \u0120b <0x0A>",
)
"""Texts that tokenizers divide in different ways: numbers, blanks, contractions, code, other scripts, emoji."""


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer, and the files by name that it is saved as; none if there was no tokenizer.json."""

    tokenizer: PreTrainedTokenizerBase
    files: Mapping[str, bytes] = field(default_factory=dict)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, files: Mapping[str, bytes], folder: Path) -> None:
    """Write a tokenizer; the files that it was loaded from as they were, and what transformers writes besides."""
    tokenizer.save_pretrained(folder)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def load_tokenizer(
    path: str, trust_remote_code: bool = False, local_files_only: bool = False, revision: str | None = None
) -> LoadedTokenizer:
    """Load the tokenizer of a folder, or of the name of a model on the hub; raises what transformers raises, and
    SettingError where it makes up an empty one.

    Where the class that transformers chooses gives other ids than tokenizer.json, or cannot be built from it, the
    file's own tokenizer is loaded, and a warning says so. One whose code comes with the model is left alone.
    """
    where = {"local_files_only": local_files_only, "revision": revision}
    load = partial(AutoTokenizer.from_pretrained, path, trust_remote_code=trust_remote_code, **where)
    files = _read_files(path, where)
    if TOKENIZER_FILE not in files:
        tokenizer = load()
        _check_reads(tokenizer)
        return LoadedTokenizer(tokenizer)
    own, config = Tokenizer.from_str(files[TOKENIZER_FILE].decode("utf-8")), json.loads(files.get(CONFIG_FILE, b"{}"))
    chosen, problem = _load_chosen(load, own, config)
    if chosen is not None and not _reads_tokenizer_file(chosen):
        return LoadedTokenizer(chosen)
    defaults = {}
    if chosen is None or problem:
        logger.warning("model.path: %s; the tokenizer in tokenizer.json is used as it is", problem)
        defaults = {} if chosen is None else _class_defaults(chosen, own, config)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path, **where, **defaults)
        if problem := _difference(tokenizer, own):
            logger.warning("model.path: tokenizer_config.json changes ids of tokenizer.json: %s", problem)
    else:
        tokenizer = chosen
    if type(tokenizer) is PreTrainedTokenizerFast and config.get("tokenizer_class") not in PLAIN_CLASSES:
        # So that other programs take the file as it is, too; only the name of the model may have told transformers.
        config = defaults | config | {"tokenizer_class": PLAIN_CLASSES[0]}
        files[CONFIG_FILE] = json.dumps(config, indent=2, ensure_ascii=False).encode()
    return LoadedTokenizer(tokenizer, files)


def _check_reads(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise SettingError for a tokenizer that knows special tokens alone: transformers builds one without a word where
    the files of the vocabulary are missing, and every prompt would be empty."""
    special = set(tokenizer.all_special_ids)
    if all(special.issuperset(tokenizer.encode(text, add_special_tokens=False)) for text in PROBES):
        raise SettingError("model.path", f"its tokenizer reads no text: there is no {TOKENIZER_FILE}, nor a vocabulary")


def _load_chosen(
    load: Callable[[], PreTrainedTokenizerBase], own: Tokenizer, config: Mapping[str, Any]
) -> tuple[PreTrainedTokenizerBase | None, str]:
    """What transformers chooses, if it can build it, and how that differs from the tokenizer in tokenizer.json."""
    try:
        tokenizer = load()
        return tokenizer, _difference(tokenizer, own) if _reads_tokenizer_file(tokenizer) else ""
    # Whatever a class raises that finds the parts of another one.
    except Exception as error:
        if "auto_map" in config:
            raise
        name = config.get("tokenizer_class", "the tokenizer")
        return None, f"transformers cannot build {name!r} ({first_line(error)})"


def _difference(tokenizer: PreTrainedTokenizerBase, own: Tokenizer) -> str:
    """How a tokenizer differs from the one in tokenizer.json (`own`), or ""."""
    name = type(tokenizer).__name__
    own.no_truncation()
    own.no_padding()
    own.encode_special_tokens = bool(getattr(tokenizer, "split_special_tokens", False))
    ids = tokenizer.get_vocab()
    for token, index in own.get_vocab().items():
        if ids.get(token) != index:
            return f"{name} of transformers has the id {ids.get(token)} for {token!r} instead of {index}"
    for text in _probe_texts(own):
        expected = own.encode(text, add_special_tokens=False).ids
        if tokenizer.encode(text, add_special_tokens=False) != expected:
            return f"{name} of transformers gives other ids for {text!r}"
        if tokenizer.decode(expected, clean_up_tokenization_spaces=False) != own.decode(expected, False):
            return f"{name} of transformers gives back other text than {text!r}"
    if tokenizer.encode(PROBES[0]) != own.encode(PROBES[0]).ids:
        return f"{name} of transformers puts other special tokens around a text"
    return ""


def _probe_texts(own: Tokenizer) -> Iterator[str]:
    yield from PROBES
    added = [token.content for token in own.get_added_tokens_decoder().values()]
    # Some models reserve thousands: from the first to the last of them, evenly.
    for content in added[:: max(1, len(added) // MAX_PROBED_TOKENS)]:
        yield f"a{content}b {content} 12"


def _reads_tokenizer_file(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a class of transformers was chosen that reads tokenizer.json; Mistral's own reads tekken.json."""
    cls = type(tokenizer)
    return cls.__module__.startswith("transformers.") and cls.__name__ != "MistralCommonBackend"


def _read_files(path: str, where: Mapping[str, Any]) -> dict[str, bytes]:
    """Those of FILES that there are, by name; where: whether to look on this machine alone."""
    found = {}
    for name in FILES:
        file = cached_file(
            path,
            name,
            **where,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if file is not None:
            found[name] = Path(file).read_bytes()
    return found


def _class_defaults(tokenizer: PreTrainedTokenizerBase, own: Tokenizer, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a tokenizer has from its class, not from its files: special tokens that the file knows, and sides."""
    tokens = {name: str(getattr(tokenizer, name)) for name in tokenizer.SPECIAL_TOKENS_ATTRIBUTES}
    found = {name: token for name, token in tokens.items() if own.token_to_id(token) is not None}
    found |= {name: getattr(tokenizer, name) for name in ("padding_side", "truncation_side")}
    return {name: value for name, value in found.items() if name not in config}
