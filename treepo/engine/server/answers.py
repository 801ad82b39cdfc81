"""What servers answer, checked before it is believed: JSON of the right form, with values that can be.

Readers raise ValueError for what cannot be; `Server` makes a ServerError of it, and the request goes elsewhere.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from treepo.engine.base import SampleRequest, SampleResult

MAX_LOGPROB = 1e-3
"""Largest log-probability that rounding explains."""

NO_LOGPROB = -9999.0
"""What vLLM writes where there is no probability."""

MAX_MODEL_LEN = 10**9
MAX_CACHE_TOKENS = 10**15
MAX_WORKERS = 10**6
MAX_NAME_LEN = 1000

COMPLAINT_CHARS = 300
SEARCHED_CHARS = 10_000
"""Characters of an answer in which an error message is looked for."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that a server may answer. size: ids lie below it. eos_ids: those that end a response."""

    size: int
    eos_ids: Sequence[int]


def segment_of(request: SampleRequest, text: str, vocabulary: Vocabulary) -> tuple[SampleResult, int]:
    """(the segment that was asked for, tokens of its prefix that were cached).

    Raises FloatingPointError if the model has no probabilities, as vLLM says it.
    """
    answer = parse(text)
    choice = answer["choices"][0]
    ids, logprobs = _list_of(choice, "token_ids"), _list_of(choice["logprobs"], "token_logprobs")
    if len(ids) != len(logprobs):
        raise ValueError(f"{len(ids)} tokens with {len(logprobs)} log-probabilities")
    for token in ids:
        if not is_whole(token, 0, vocabulary.size - 1):
            raise ValueError(f"token id {token!r:.40} of a vocabulary of {vocabulary.size}")
    if any(token in vocabulary.eos_ids for token in ids[:-1]):
        raise ValueError("tokens after the end of a response")
    has_ended = bool(ids) and ids[-1] in vocabulary.eos_ids
    # A server that shuts down or pauses returns what it has.
    if len(ids) > request.max_new_tokens or not (has_ended or len(ids) == request.max_new_tokens):
        raise ValueError(f"{len(ids)} of {request.max_new_tokens} tokens, and no end of a response")
    for logprob in logprobs:
        if logprob == NO_LOGPROB:
            raise FloatingPointError("the model's logits are not finite")
        # Also refuses infinity.
        if type(logprob) not in {int, float} or not NO_LOGPROB < logprob <= MAX_LOGPROB:
            raise ValueError(f"log-probability {logprob!r:.40}")
    result = SampleResult(request.request_id, np.array(ids, np.int32), np.array(logprobs, np.float32), has_ended)
    return result, _num_cached(answer["usage"], len(request.prefix_ids))


def _num_cached(usage: Any, prefix_len: int) -> int:
    details = usage.get("prompt_tokens_details")
    count = details.get("cached_tokens") if details is not None else None
    if count is None:
        return 0
    if not is_whole(count, 0, prefix_len):
        raise ValueError(f"{count!r:.40} cached of {prefix_len} tokens")
    # The last token of a prefix is always computed.
    return min(count, prefix_len - 1)


def model_of(text: str) -> tuple[str, int]:
    """(the name that a model is served under, the most tokens of a sequence) of an answer to /v1/models."""
    model = parse(text)["data"][0]
    name, max_model_len = model["id"], model.get("max_model_len")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_LEN:
        raise ValueError(f"a model named {name!r:.40}")
    if not is_whole(max_model_len, 2, MAX_MODEL_LEN):
        raise ValueError(f"max_model_len is {max_model_len!r:.40}")
    return name, max_model_len


def kv_cache_tokens_of(metrics: str) -> int | None:
    """Tokens in the caches of all engines of a server, None if its metrics do not say."""
    lines = re.findall(r"vllm:cache_config_info\{.*", metrics)
    # Bounded, so that no line takes long.
    caches = [dict(re.findall(r'\b(\w{1,64})="([0-9]{1,18})"', line)) for line in lines]
    sizes = [int(cache["num_gpu_blocks"]) * int(cache["block_size"]) for cache in caches if "num_gpu_blocks" in cache]
    total = sum(sizes)
    if total > MAX_CACHE_TOKENS:
        raise ValueError("a cache of more tokens than any machine holds")
    return total or None


def weight_version_of(text: str) -> str:
    """The version of a server's weights, as the last update set it."""
    version = parse(text)["weight_version"]
    if not (isinstance(version, str | int) or version is None):
        raise ValueError("a weight_version that is no text")
    return str(version)


def world_size_of(text: str) -> int:
    """How many workers a server has."""
    size = parse(text)["world_size"]
    if not is_whole(size, 1, MAX_WORKERS):
        raise ValueError(f"world_size is {size!r:.40}")
    return size


def success_of(text: str) -> bool:
    """Whether a server did what it was asked."""
    success = parse(text)["success"]
    if not isinstance(success, bool):
        raise ValueError(f"success is {success!r:.40}")
    return success


def parse(text: str) -> Any:
    """The value of JSON; raises ValueError for what is none, is nested too deeply, or holds NaN."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}, which is not JSON")


def _list_of(found: Any, name: str) -> list[Any]:
    value = found[name]
    if not isinstance(value, list):
        raise ValueError(f"{name} is no list")
    return value


def is_whole(value: object, low: int, high: int) -> bool:
    """Whether it is a whole number within these bounds; true and 1.0 are not."""
    return type(value) is int and low <= value <= high


def complaint_of(text: str) -> str:
    """The message of an error, in one line."""
    text = text[:SEARCHED_CHARS]
    found = re.search(r'"message"\s*:\s*"((?:[^"\\]|\\.)*)"', text)
    return " ".join((found[1] if found else text).split())[:COMPLAINT_CHARS]
