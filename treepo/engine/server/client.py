"""A server of vLLM, spoken to over HTTP: token ids in, token ids and log-probabilities out."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from treepo.engine.base import SampleRequest, SampleResult
from treepo.errors import RefusedError, ServerError
from treepo.utils.foreign_errors import vllm_server_has_nan
from treepo.utils.numeric import derive_seed

if TYPE_CHECKING:
    from asyncio import Task

    from aiohttp import ClientSession


T = TypeVar("T")

REFUSALS = {400, 413, 422}
"""HTTP statuses of requests that no server will ever answer."""

NOT_FOUND = 404

QUERY_TIMEOUT_S = 30.0
"""Longest wait for an answer that takes no work."""


@dataclass(eq=False)
class Server:
    """One server, its limits and its state.

    model: the name it serves under. max_model_len: most tokens of a sequence. kv_cache_tokens: tokens that its cache
    holds, None if it does not say. version: of the weights that it should have. num_running: requests that it works on.
    is_alive: whether it answers, with these weights; last_error says why not. check: the health check that runs now, if
    any.
    """

    url: str
    session: "ClientSession"
    model: str = ""
    max_model_len: int = 0
    kv_cache_tokens: int | None = None
    version: str = ""
    num_running: int = 0
    is_alive: bool = False
    last_error: str = ""
    check: "Task[None] | None" = None

    async def complete(self, request: SampleRequest, eos_ids: Sequence[int]) -> tuple[SampleResult, int]:
        """Return (one segment, tokens of its prefix that were cached)."""
        sampling = request.sampling
        body = {
            "model": self.model,
            "prompt": request.prefix_ids.tolist(),
            "max_tokens": request.max_new_tokens,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            # Without these, servers use the penalties that come with a model.
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            # vLLM's generator begins anew with every request, so one that continues another needs its own seed.
            "seed": derive_seed(request.seed, len(request.prefix_ids)),
            "stop_token_ids": list(eos_ids),
            "ignore_eos": True,
            "logprobs": 0,
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        return await self.post("/v1/completions", body, lambda text: _segment(request, json.loads(text), eos_ids))

    async def fetch_limits(self) -> None:
        """Ask for its model, its limits and the version of its weights."""
        model = await self.get("/v1/models", lambda text: json.loads(text)["data"][0])
        self.kv_cache_tokens = await self.get("/metrics", _kv_cache_tokens)
        try:
            self.model, self.max_model_len = str(model["id"]), int(model["max_model_len"])
        except (LookupError, TypeError, ValueError) as error:
            raise ServerError(f"{self.url}/v1/models tells no max_model_len") from error
        try:
            self.version = await self.weight_version()
        except ServerError as error:
            if error.status == NOT_FOUND:
                raise ServerError(f"start it with VLLM_SERVER_DEV_MODE=1: {error}") from error
            raise

    async def weight_version(self) -> str:
        """Return the version of its weights, as the last update set it."""
        return await self.get("/weight_info", lambda text: str(json.loads(text)["weight_version"]))

    async def drop_cache(self) -> bool:
        """Clear its prefix cache; returns False while requests run, which it then does not."""
        return await self.post("/reset_prefix_cache", None, lambda text: bool(json.loads(text)["success"]))

    async def get(self, path: str, read: Callable[[str], T]) -> T:
        """Return what `read` makes of the answer to a GET request."""
        return await self._request("GET", path, None, read, QUERY_TIMEOUT_S)

    async def post(self, path: str, body: object = None, read: Callable[[str], T] = str) -> T:
        """Return what `read` makes of the answer to a POST request."""
        return await self._request("POST", path, body, read, self.session.timeout.total)

    async def _request(
        self, method: str, path: str, body: object, read: Callable[[str], T], timeout_s: float | None
    ) -> T:
        from aiohttp import ClientError, ClientTimeout  # noqa: PLC0415 - an extra

        timeout = ClientTimeout(timeout_s, sock_connect=self.session.timeout.sock_connect)
        try:
            async with self.session.request(method, self.url + path, json=body, timeout=timeout) as response:
                text = await response.text()
                if response.status >= 400:
                    if vllm_server_has_nan(text):
                        raise FloatingPointError("the model's logits are not finite")
                    message = f"{self.url}{path} answers {response.status}: {_complaint(text)}"
                    if response.status in REFUSALS:
                        raise RefusedError(message)
                    raise ServerError(message, response.status)
                return read(text)
        except TimeoutError as error:
            raise ServerError(f"{self.url}{path} does not answer") from error
        except (ClientError, OSError) as error:
            raise ServerError(f"{self.url}{path}: {str(error) or type(error).__name__}") from error
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ServerError(f"{self.url}{path} answers something else: {error!r}") from error


def allow_sockets(count: int) -> None:
    """Let this process open so many files, or as many as the system permits."""
    soft, hard = getrlimit(RLIMIT_NOFILE)
    if soft != RLIM_INFINITY and soft < count:
        setrlimit(RLIMIT_NOFILE, (count if hard == RLIM_INFINITY else min(count, hard), hard))


def _kv_cache_tokens(metrics: str) -> int | None:
    """Tokens in the caches of all engines of a server, None if its metrics do not say."""
    caches = [dict(re.findall(r'(\w+)="(\d+)"', line)) for line in re.findall(r"vllm:cache_config_info\{.*", metrics)]
    sizes = [int(cache["num_gpu_blocks"]) * int(cache["block_size"]) for cache in caches if "num_gpu_blocks" in cache]
    return sum(sizes) or None


def _segment(request: SampleRequest, answer: Any, eos_ids: Sequence[int]) -> tuple[SampleResult, int]:
    """(segment, cached tokens) of a server's answer. Raises ValueError if it is not what was asked for."""
    choice = answer["choices"][0]
    tokens = np.array(choice["token_ids"], np.int32)
    logprobs = np.array(choice["logprobs"]["token_logprobs"], np.float32)
    cached = (answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    has_ended = len(tokens) > 0 and int(tokens[-1]) in eos_ids
    # A server that shuts down or pauses returns what it has.
    if tokens.shape != logprobs.shape or not (has_ended or len(tokens) == request.max_new_tokens):
        raise ValueError(f"{len(tokens)} tokens with finish_reason {choice.get('finish_reason')!r}")
    # What vLLM writes where there is no probability.
    if not (logprobs > -9999).all():
        raise FloatingPointError("the model's logits are not finite")
    return SampleResult(request.request_id, tokens, logprobs, has_ended), int(cached)


def _complaint(text: str) -> str:
    """The message of an error, in one line."""
    found = re.search(r'"message"\s*:\s*"((?:[^"\\]|\\.)*)"', text)
    return " ".join((found[1] if found else text).split())[:300]
