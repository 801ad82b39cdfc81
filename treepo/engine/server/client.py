"""A server of vLLM, spoken to over HTTP: token ids in, token ids and log-probabilities out."""

from collections.abc import Callable
from dataclasses import dataclass
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit
from typing import TYPE_CHECKING, TypeVar

from treepo.engine.base import SampleRequest, SampleResult
from treepo.engine.server.answers import (
    Vocabulary,
    complaint_of,
    kv_cache_tokens_of,
    model_of,
    segment_of,
    success_of,
    weight_version_of,
)
from treepo.errors import RefusedError, ServerError
from treepo.utils.foreign_errors import vllm_server_has_nan
from treepo.utils.numeric import derive_seed

if TYPE_CHECKING:
    from asyncio import Task

    from aiohttp import ClientResponse, ClientSession


T = TypeVar("T")

REFUSALS = {400, 413, 422}
"""HTTP statuses of requests that no server will ever answer."""

NOT_FOUND = 404

QUERY_TIMEOUT_S = 30.0
"""Longest wait for an answer that takes no work."""

MAX_ANSWER_BYTES = 4 << 20
"""Longest answer to a question; one with a segment may have more."""

BYTES_PER_TOKEN = 1 << 10
"""Room for each token of a prompt and its response in the answer: its id, text and log-probability."""

COMPLETIONS = "/v1/completions"
MAX_REASON_CHARS = 200


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

    async def complete(self, request: SampleRequest, vocabulary: Vocabulary) -> tuple[SampleResult, int]:
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
            "repetition_penalty": sampling.repetition_penalty,
            # Without these, servers use the penalties that come with a model.
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            # vLLM's generator begins anew with every request, so one that continues another needs its own seed.
            "seed": derive_seed(request.seed, len(request.prefix_ids)),
            "stop_token_ids": list(vocabulary.eos_ids),
            "ignore_eos": True,
            "logprobs": 0,
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        num_tokens = len(request.prefix_ids) + request.max_new_tokens
        most = MAX_ANSWER_BYTES + BYTES_PER_TOKEN * num_tokens
        return await self.post(COMPLETIONS, body, lambda text: segment_of(request, text, vocabulary), most)

    async def fetch_limits(self) -> None:
        """Ask for its model, its limits and the version of its weights."""
        self.model, self.max_model_len = await self.get("/v1/models", model_of)
        self.kv_cache_tokens = await self.get("/metrics", kv_cache_tokens_of)
        try:
            self.version = await self.weight_version()
        except ServerError as error:
            if error.status == NOT_FOUND:
                raise ServerError(f"start it with VLLM_SERVER_DEV_MODE=1: {error}") from error
            raise

    async def weight_version(self) -> str:
        """Return the version of its weights, as the last update set it."""
        return await self.get("/weight_info", weight_version_of)

    async def drop_cache(self) -> bool:
        """Clear its prefix cache; returns False while requests run, which it then does not."""
        return await self.post("/reset_prefix_cache", None, success_of)

    async def get(self, path: str, read: Callable[[str], T]) -> T:
        """Return what `read` makes of the answer to a GET request."""
        return await self._request("GET", path, None, read, QUERY_TIMEOUT_S)

    async def post(
        self, path: str, body: object = None, read: Callable[[str], T] = str, max_bytes: int = MAX_ANSWER_BYTES
    ) -> T:
        """Return what `read` makes of the answer to a POST request."""
        return await self._request("POST", path, body, read, self.session.timeout.total, max_bytes)

    async def _request(
        self,
        method: str,
        path: str,
        body: object,
        read: Callable[[str], T],
        timeout_s: float | None,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> T:
        from aiohttp import ClientError, ClientTimeout  # noqa: PLC0415 - an extra

        timeout = ClientTimeout(timeout_s, sock_connect=self.session.timeout.sock_connect)
        call = self.session.request(method, self.url + path, json=body, timeout=timeout, allow_redirects=False)
        try:
            async with call as response:
                content = await _content(response, max_bytes)
                if not 200 <= response.status < 300:
                    place = response.headers.get("Location")
                    text = f"it redirects to {place!a:.200}" if place else content.decode(errors="replace")
                    raise self._refusal(path, response.status, text)
                return read(content.decode())
        except TimeoutError as error:
            raise ServerError(f"{self.url}{path} does not answer") from error
        except (ClientError, OSError) as error:
            reason = " ".join(str(error).split())[:MAX_REASON_CHARS] or type(error).__name__
            raise ServerError(f"{self.url}{path}: {reason}") from error
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ServerError(f"{self.url}{path} answers something else: {error!r:.{MAX_REASON_CHARS}}") from error

    def _refusal(self, path: str, status: int, text: str) -> Exception:
        """The error of an answer that says that nothing was done."""
        if path == COMPLETIONS and vllm_server_has_nan(text):
            return FloatingPointError("the model's logits are not finite")
        message = f"{self.url}{path} answers {status}: {complaint_of(text)}"
        return RefusedError(message) if status in REFUSALS else ServerError(message, status)


async def _content(response: "ClientResponse", max_bytes: int) -> bytes:
    """The body of an answer. Raises ValueError if it is longer than that; compressed ones are not read, as none were
    asked for."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ValueError("a compressed answer")
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > max_bytes:
            raise ValueError(f"an answer of more than {max_bytes} bytes")
    return bytes(content)


def allow_sockets(count: int) -> None:
    """Let this process open so many files, or as many as the system permits."""
    soft, hard = getrlimit(RLIMIT_NOFILE)
    if soft != RLIM_INFINITY and soft < count:
        setrlimit(RLIMIT_NOFILE, (count if hard == RLIM_INFINITY else min(count, hard), hard))
