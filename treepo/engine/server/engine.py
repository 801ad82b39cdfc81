"""ServerEngine: servers of vLLM behind one engine."""

import asyncio
import os
import sys
from collections.abc import Coroutine
from concurrent.futures import Future
from itertools import count
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import torch

from treepo.engine.base import Engine, EngineCounters, SampleRequest, SampleResult
from treepo.engine.server.answers import Vocabulary
from treepo.engine.server.client import Server, allow_sockets
from treepo.engine.server.fleet import Fleet
from treepo.engine.server.weight_sync import WeightSync
from treepo.engine.settings import ServerSettings
from treepo.errors import EngineError, RefusedError, ServerError, SettingError
from treepo.model.exported import ExportedWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


T = TypeVar("T")

CONNECT_S = 10.0
"""Longest wait for a connection."""

NUM_OTHER_FILES = 512
"""Files that the process may have open besides its connections."""

CLOSED = "servers.urls: the engine was closed"


class ServerEngine(Engine):
    """Sends requests to servers; those of one group go to one server, whose cache they share, while it is alive.

    A request whose server fails goes to another one. A server that failed is used again once it answers with the
    weights that it should have; `update_weights` sends those to all that answer. vLLM samples from its own generators,
    seeded from the request's seed and the length of its prefix: the same trees again on the same servers, but not those
    of the other engines, and a segment in two requests differs from the same one in one.

    vocabulary: the tokens that they may answer. max_num_seqs: requests that each server decodes at a time. name: of
    this run's weights, which no other run may use; random if not given. Where several processes share the servers all
    of them have it, and one leads: it alone sends new weights, and the others wait for them. Call `connect` before
    anything else.
    """

    reads_model = False
    is_shared = True

    def __init__(
        self,
        settings: ServerSettings,
        sync: WeightSync,
        vocabulary: Vocabulary,
        *,
        max_num_seqs: int = 256,
        name: str | None = None,
        leads: bool = True,
    ) -> None:
        self.settings = settings
        self.sync = sync
        self.vocabulary = vocabulary
        self.max_num_seqs = max_num_seqs
        self.name = name or f"treepo-{uuid4().hex}"
        self.leads = leads
        self.dtype = None if settings.dtype == "same" else getattr(torch, settings.dtype)
        self.fleet = Fleet([], settings.max_retries)
        self.names = count()
        self.running: dict[int, tuple[SampleRequest, Future[None]]] = {}
        self.finished: SimpleQueue[tuple[int, tuple[SampleResult, int] | Exception]] = SimpleQueue()
        self.loop: asyncio.AbstractEventLoop | None = None
        # Steps are not known; cached tokens are where servers run with --enable-prompt-tokens-details.
        self.counters = EngineCounters()

    def connect(self) -> None:
        """Open connections and ask the servers for their limits. Raises SettingError if one cannot be used."""
        try:
            import aiohttp  # noqa: F401, PLC0415 - an extra
        except ImportError as error:
            message = "servers need aiohttp, which is not installed (pip install 'treepo[servers]')"
            raise SettingError("servers.urls", message) from error
        if not self.settings.urls:
            raise SettingError("servers.urls", "no server given")
        self.loop = asyncio.new_event_loop()
        self.thread = Thread(target=self.loop.run_forever, name="servers", daemon=True)
        self.thread.start()
        try:
            self._wait_for(self._open())
        except (ServerError, RefusedError) as error:
            self.close()
            raise SettingError("servers.urls", str(error)) from error

    async def _open(self) -> None:
        from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector  # noqa: PLC0415 - an extra

        timeout = ClientTimeout(self.settings.timeout_s, sock_connect=CONNECT_S)
        key = os.environ.get("VLLM_API_KEY")
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
        # All requests run at once, each on its own connection.
        allow_sockets(self.max_num_seqs * len(self.settings.urls) + NUM_OTHER_FILES)
        connector, cookies = TCPConnector(limit=0), DummyCookieJar()
        # Answers are not decompressed: a short one may stand for any length.
        self.session = ClientSession(
            connector=connector, cookie_jar=cookies, timeout=timeout, headers=headers, auto_decompress=False
        )
        self.fleet.servers = [Server(url.rstrip("/"), self.session) for url in self.settings.urls]
        for server in self.fleet.servers:
            await server.fetch_limits()
            server.is_alive = True
        self.watch = asyncio.create_task(self.fleet.watch())

    def close(self) -> None:
        """End all requests, the connections and their thread."""
        if self.loop is None:
            return
        self.running.clear()
        # Another thread may wait for a segment: one of a request that there is not wakes it.
        self.finished.put((-1, EngineError(CLOSED)))
        self._wait_for(self._end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
        self.loop = None

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        try:
            await self.sync.close()
        finally:
            await self.session.close()

    @property
    def num_free_slots(self) -> int:
        return self.max_num_seqs * len(self.fleet.alive) - len(self.running)

    @property
    def kv_cache_tokens(self) -> int:
        """Tokens that the caches of all servers hold; unlimited where a server does not say."""
        return sum(server.kv_cache_tokens or sys.maxsize for server in self.fleet.alive)

    @property
    def max_model_len(self) -> int:
        return min(server.max_model_len for server in self.fleet.servers)

    def submit(self, request: SampleRequest) -> None:
        assert len(request.prefix_ids) > 0 and request.max_new_tokens > 0
        length = len(request.prefix_ids) + request.max_new_tokens
        if length > self.max_model_len:
            message = f"a sequence of {length} tokens is longer than the servers' {self.max_model_len}"
            raise SettingError("servers.urls", message)
        # The caller may reuse an id while the answer to an aborted request is still on its way.
        name = next(self.names)
        self.running[name] = request, self._begin(self._serve(name, request))

    def step(self) -> list[SampleResult]:
        """Wait for a segment, and return it with all others that are there."""
        if self.loop is None:
            raise EngineError(CLOSED)
        results: list[SampleResult] = []
        while self.running and (not results or not self.finished.empty()):
            name, outcome = self.finished.get()
            if name not in self.running:
                continue
            request, _ = self.running.pop(name)
            if isinstance(outcome, Exception):
                raise outcome
            result, num_cached = outcome
            num_prefilled = len(request.prefix_ids) - 1 - num_cached
            self.counters = self.counters.plus(
                num_decoded=len(result.token_ids), num_prefilled=num_prefilled, num_cached=num_cached
            )
            results.append(result)
        return results

    def abort_group(self, group: int) -> None:
        """End requests by closing their connections."""
        for name, (request, future) in list(self.running.items()):
            if request.group == group:
                del self.running[name]
                future.cancel()
        if self.loop:
            self.loop.call_soon_threadsafe(self.fleet.home.pop, group, None)

    def update_weights(self, model: "PreTrainedModel") -> None:
        """Send the model's weights to the servers that answer and clear their caches.

        Of a sharded model the processes that do not lead `join_update` meanwhile, and come here after that. Raises
        EngineError if none takes them.
        """
        assert not self.running, "weights change only between requests"
        self.num_updates += 1
        version = f"{self.name}-{self.num_updates}"
        if not self.leads:
            self._wait_for(self.fleet.follow(version, self.settings.timeout_s))
            return
        weights = ExportedWeights(model, self.dtype)
        try:
            self._wait_for(self.fleet.update(self.sync, weights, version))
        finally:
            weights.finish()

    def join_update(self, model: "PreTrainedModel") -> None:
        ExportedWeights(model, self.dtype).finish()

    async def _serve(self, name: int, request: SampleRequest) -> None:
        try:
            self.finished.put((name, await self.fleet.complete(request, self.vocabulary)))
        except Exception as error:  # noqa: BLE001 - `step` raises it
            self.finished.put((name, error))

    def _begin(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        assert self.loop, "connect comes first"
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of work in the servers' event loop."""
        return self._begin(work).result()
