"""A stub of one of vLLM's servers: answers as vLLM 0.32 does, decodes with the embedded engine, fails on demand."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from copy import deepcopy
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from aiohttp import web
from safetensors.torch import load_file
from transformers import PreTrainedModel

from treepo.engine.base import SampleRequest, SampleResult, SamplingParams
from treepo.engine.torch.engine import TorchEngine

BLOCK = 8
"""Tokens per block of what it counts as cached."""

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
PRESETS = {
    *("model", "prompt", "max_tokens", *SAMPLING, "seed", "stop_token_ids", "presence_penalty", "frequency_penalty"),
    *("ignore_eos", "logprobs", "return_token_ids", "skip_special_tokens"),
}


class StubServer:
    """A server in a thread of its own, on a free port of this machine, over a copy of a model.

    What a test turns: hangs (nothing is answered), is_stuck (no segment is), num_busy (so many segments are answered
    503), num_left (dies when so many segments have been asked for), refuses (400), delay_s before each segment, change
    (of an answer, or what is answered instead), broken (paths that answer 500), key, has_dev_mode, num_workers.
    What it sees: calls (path, body), aborted segments, peak of segments at a time.
    """

    def __init__(self, model: PreTrainedModel, longest: int = 512) -> None:
        self.first_model, self.longest = model, longest
        self.hangs = self.is_stuck = self.refuses = False
        self.num_busy, self.delay_s, self.num_workers = 0, 0.0, 1
        self.num_left: int | None = None
        self.change: Callable[[Any], Any] = lambda answer: answer
        self.key, self.has_dev_mode = "", True
        self.broken: set[str] = set()
        self.calls: list[tuple[str, Any]] = []
        self.num_aborted = self.num_running = self.peak = 0
        self.port = 0
        self.loop = asyncio.new_event_loop()
        self.shutting = asyncio.Lock()
        self.thread = Thread(target=self.loop.run_forever, name="stub", daemon=True)
        self.thread.start()
        self.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def paths(self) -> list[str]:
        """What it was asked for, in order."""
        return [path for path, _ in self.calls]

    def bodies(self, path: str = "/v1/completions") -> list[Any]:
        """What came with the calls of one path."""
        return [body for called, body in self.calls if called == path]

    def start(self) -> None:
        """Serve, with the weights of the first model; also after it died, at the same address."""
        self.model = deepcopy(self.first_model)
        self.version = "default"
        self.cached: set[tuple[int, ...]] = set()
        self._wait_for(self._open())

    def die(self) -> None:
        """Stop in the middle of everything: connections are reset, and new ones refused."""
        self._wait_for(self._shut())

    def close(self) -> None:
        """Stop for good."""
        self.die()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def _wait_for(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def _open(self) -> None:
        self.waiting: list[tuple[SampleRequest, asyncio.Future[SampleResult]]] = []
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self.runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def _shut(self) -> None:
        async with self.shutting:
            await self._end_everything()

    async def _end_everything(self) -> None:
        for site in list(self.runner.sites):
            await site.stop()
        for connection in list(self.runner.server.connections if self.runner.server else []):
            if connection.transport:
                connection.transport.abort()
        await self.runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path, text = request.path, await request.text()
        body = json.loads(text) if text else None
        self.calls.append((path, body))
        if self.hangs:
            await asyncio.sleep(3600)
        if self.key and path.startswith("/v1") and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        if path in self.broken:
            return _error(500, "EngineCore encountered an issue. See stack trace (above) for the root cause.")
        handler = {
            ("POST", "/v1/completions"): self._complete,
            ("GET", "/v1/models"): self._models,
            ("GET", "/metrics"): self._metrics,
        } | (self._dev_handlers() if self.has_dev_mode else {})
        if (request.method, path) not in handler:
            return web.json_response({"detail": "Not Found"}, status=404)
        answer = await handler[request.method, path](body)
        return answer if isinstance(answer, web.StreamResponse) else web.json_response(answer)

    def _dev_handlers(self) -> dict[tuple[str, str], Callable[[Any], Coroutine[Any, Any, Any]]]:
        async def done(body: Any) -> Any:
            return {"message": "done"}

        transfer = ("init_weight_transfer_engine", "shutdown_weight_transfer_engine", "start_weight_update")
        return {
            ("GET", "/weight_info"): self._weight_info,
            ("GET", "/get_world_size"): self._world_size,
            ("POST", "/collective_rpc"): self._reload,
            ("POST", "/reset_prefix_cache"): self._reset,
            ("POST", "/update_weight_version"): self._name_weights,
        } | {("POST", f"/{name}"): done for name in (*transfer, "update_weights", "finish_weight_update")}

    async def _models(self, _: Any) -> Any:
        return {"object": "list", "data": [{"id": "stub", "object": "model", "max_model_len": self.longest}]}

    async def _metrics(self, _: Any) -> Any:
        labels = 'block_size="8",cache_dtype="auto",engine="0",num_cpu_blocks="None",num_gpu_blocks="500"'
        return web.Response(text=f"# HELP vllm:cache_config_info x\nvllm:cache_config_info{{{labels}}} 1.0\n")

    async def _weight_info(self, _: Any) -> Any:
        return {"weight_version": self.version}

    async def _world_size(self, _: Any) -> Any:
        return {"world_size": self.num_workers}

    async def _name_weights(self, body: Any) -> Any:
        self.version = body["new_version"]
        return {"success": True, "new_version": self.version}

    async def _reset(self, _: Any) -> Any:
        if self.num_running:
            return {"success": False}
        self.cached.clear()
        return {"success": True}

    async def _reload(self, body: Any) -> Any:
        assert body["method"] == "reload_weights"
        files = sorted(Path(body["kwargs"]["weights_path"]).glob("*.safetensors"))
        if not files:
            return _error(500, "Call to collective_rpc method failed: Cannot find any model weights")
        # As in vLLM, weights that are not there stay as they are, tied or not: that is not what anyone wants.
        self.model.load_state_dict({name: tensor for file in files for name, tensor in load_file(file).items()})
        return {"results": [None]}

    async def _complete(self, body: Any) -> Any:
        if self.num_left is not None:
            self.num_left -= 1
            if self.num_left < 0:
                # In a task of its own, since this one is among those that end.
                self.dying = asyncio.create_task(self._shut())
                await asyncio.sleep(3600)
        if self.num_busy:
            self.num_busy -= 1
            return _error(503, "Server is busy")
        if self.refuses or set(body) - PRESETS or not body["prompt"] or not 0 <= body["seed"] < 2**63:
            return _error(400, "Token id 5000 is out of vocabulary")
        self.num_running += 1
        self.peak = max(self.peak, self.num_running)
        try:
            await asyncio.sleep(3600 if self.is_stuck else self.delay_s)
            answer = _choice(await self._decode(body), self._count_cached(body["prompt"]), body)
        except asyncio.CancelledError:
            self.num_aborted += 1
            raise
        finally:
            self.num_running -= 1
        return self.change(answer)

    async def _decode(self, body: Any) -> SampleResult:
        """What is asked for; all that is asked for within a moment is decoded together."""
        how = SamplingParams(*(body[name] for name in SAMPLING))
        prefix = np.array(body["prompt"], np.int32)
        request = SampleRequest(len(self.waiting), prefix, body["max_tokens"], body["seed"], how)
        future: asyncio.Future[SampleResult] = self.loop.create_future()
        self.waiting.append((request, future))
        await asyncio.sleep(0.003)
        if self.waiting:
            batch, self.waiting = self.waiting, []
            engine = TorchEngine(self.model, body["stop_token_ids"])
            for waiting, _ in batch:
                engine.submit(waiting)
            num_done = 0
            while num_done < len(batch):
                for result in engine.step():
                    num_done += 1
                    if not batch[result.request_id][1].done():
                        batch[result.request_id][1].set_result(result)
        return await future

    def _count_cached(self, prompt: list[int]) -> int:
        ends = range(BLOCK, len(prompt), BLOCK)
        count = max((n for n in ends if tuple(prompt[:n]) in self.cached), default=0)
        self.cached |= {tuple(prompt[:n]) for n in ends}
        return count


def _choice(result: SampleResult, num_cached: int, body: Any) -> dict[str, Any]:
    count = len(result.token_ids)
    logprobs = {"text_offset": [0] * count, "token_logprobs": result.logprobs.tolist(), "tokens": ["x"] * count}
    choice = {
        "index": 0,
        "text": "x" * count,
        "logprobs": logprobs,
        "finish_reason": "stop" if result.ended else "length",
        "stop_reason": int(result.token_ids[-1]) if result.ended else None,
        "token_ids": result.token_ids.tolist(),
        "prompt_token_ids": body["prompt"],
    }
    usage = {"prompt_tokens": len(body["prompt"]), "prompt_tokens_details": {"cached_tokens": num_cached}}
    return {"id": "cmpl-0", "object": "text_completion", "choices": [choice], "usage": usage}


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "Error", "code": status}}, status=status)
