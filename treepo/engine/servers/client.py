"""One of vLLM's servers, spoken to over HTTP: token ids in, token ids and log-probabilities out."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from treepo.engine.base import EngineError, SampleRequest, SampleResult
from treepo.seeds import derive_seed

if TYPE_CHECKING:
    from aiohttp import ClientSession


PASSING = {408, 429}
"""Answers that say: not now."""


class ServerError(Exception):
    """A server did not do what it was asked; another one, or this one later, may."""


class RefusedError(EngineError):
    """A server says that it was asked something impossible; asking again is no use."""


@dataclass(frozen=True)
class ServerLimits:
    """model: the name it serves under. longest: tokens of a sequence. capacity: tokens its cache holds, or None."""

    model: str
    longest: int
    capacity: int | None


@dataclass(eq=False)
class Server:
    """One server and what is known of it. num_running: requests under way; is_alive: whether it answers, with the
    weights that it should have."""

    url: str
    session: "ClientSession"
    limits: ServerLimits | None = None
    num_running: int = 0
    is_alive: bool = True
    last_error: str = field(default="")

    async def complete(self, request: SampleRequest, eos_ids: Sequence[int]) -> tuple[SampleResult, int]:
        """(one segment, tokens of its prefix that were cached)."""
        assert self.limits is not None
        sampling = request.sampling
        answer = await self.post(
            "/v1/completions",
            {
                "model": self.limits.model,
                "prompt": request.prefix_ids.tolist(),
                "max_tokens": request.max_new_tokens,
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
                "min_p": sampling.min_p,
                # vLLM's generator begins anew with every request, so that one that goes on needs a seed of its own.
                "seed": derive_seed(request.seed, len(request.prefix_ids)),
                "stop_token_ids": list(eos_ids),
                "ignore_eos": True,
                "logprobs": 0,
                "return_token_ids": True,
                "skip_special_tokens": False,
            },
        )
        return _read(request, answer, eos_ids)

    async def look(self) -> ServerLimits:
        """Ask for its model and limits."""
        models = (await self.get("/v1/models"))["data"]
        text = await self._text("/metrics")
        found = re.search(r"vllm:cache_config_info\{([^}]*)\}", text)
        sizes = dict(re.findall(r'(\w+)="(\d+)"', found[1])) if found else {}
        blocks, block_size = (int(sizes.get(name, 0)) for name in ("num_gpu_blocks", "block_size"))
        capacity = blocks * block_size or None
        self.limits = ServerLimits(models[0]["id"], int(models[0]["max_model_len"]), capacity)
        return self.limits

    async def version(self) -> str:
        """The version of its weights, as it was told with the last update."""
        return str((await self.get("/weight_info"))["weight_version"])

    async def get(self, path: str) -> Any:
        """The answer to a question without arguments."""
        return await self._ask("GET", path, None)

    async def post(self, path: str, body: object = None) -> Any:
        """The answer to a question."""
        return await self._ask("POST", path, body)

    async def _ask(self, method: str, path: str, body: object) -> Any:
        import aiohttp  # noqa: PLC0415 - an extra

        try:
            async with self.session.request(method, self.url + path, json=body) as response:
                if response.status >= 400:
                    kind = RefusedError if response.status < 500 and response.status not in PASSING else ServerError
                    raise kind(f"{self.url}{path} answers {response.status}: {_complaint(await response.text())}")
                return await response.json(content_type=None) if response.content_length != 0 else None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ServerError(f"{self.url}{path}: {str(error) or type(error).__name__}") from error

    async def _text(self, path: str) -> str:
        async with self.session.get(self.url + path) as response:
            return await response.text() if response.status == 200 else ""


def authorization() -> dict[str, str]:
    """The header that servers started with an API key want."""
    key = os.environ.get("VLLM_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _read(request: SampleRequest, answer: Any, eos_ids: Sequence[int]) -> tuple[SampleResult, int]:
    """What a server answers, if it is what was asked for."""
    try:
        choice = answer["choices"][0]
        tokens = np.array(choice["token_ids"], np.int32)
        logprobs = np.array(choice["logprobs"]["token_logprobs"], np.float32)
        cached = (answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ServerError(f"no token ids and log-probabilities in the answer: {error!r}") from error
    has_ended = len(tokens) > 0 and int(tokens[-1]) in eos_ids
    # One that shuts down hands out what it has.
    if tokens.shape != logprobs.shape or not (has_ended or len(tokens) == request.max_new_tokens):
        raise ServerError(f"an answer of {len(tokens)} tokens with finish_reason {choice.get('finish_reason')!r}")
    if not np.isfinite(logprobs).all():
        raise ServerError("log-probabilities that are not finite")
    return SampleResult(request.request_id, tokens, logprobs, has_ended), int(cached)


def _complaint(text: str) -> str:
    """The message of an error, in one line."""
    found = re.search(r'"message"\s*:\s*"((?:[^"\\]|\\.)*)"', text)
    return " ".join((found[1] if found else text).split())[:300]
