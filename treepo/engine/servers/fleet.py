"""Several servers: who gets what, and what becomes of it when one of them fails."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from treepo.engine.base import EngineError, SampleRequest, SampleResult
from treepo.engine.servers.client import RefusedError, Server, ServerError
from treepo.engine.servers.sync import Sync, gather_done

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LONGEST_WAIT_S = 30.0


@dataclass(eq=False)
class Fleet:
    """Servers, and which of them each group is at home with. Everything here runs in one event loop.

    version: of the weights that servers should have; one that has others is not used.
    """

    servers: Sequence[Server]
    max_retries: int
    version: str | None = None
    home: dict[int, Server] = field(default_factory=dict)

    @property
    def alive(self) -> list[Server]:
        """Those that answer, with the weights that they should have."""
        return [server for server in self.servers if server.is_alive]

    async def complete(self, request: SampleRequest, eos_ids: Sequence[int]) -> tuple[SampleResult, int]:
        """(a segment, tokens of its prefix that were cached), from whichever server is alive.

        Raises EngineError if the request fails more than max_retries times.
        """
        for attempt in range(self.max_retries + 1):
            server = self._home_of(request.group)
            if server is None:
                await asyncio.sleep(min(2.0**attempt, LONGEST_WAIT_S))
                await self.revive()
                continue
            server.num_running += 1
            try:
                return await server.complete(request, eos_ids)
            except ServerError as error:
                server.last_error = str(error)
            finally:
                server.num_running -= 1
            # Of many requests that fail with a server the first one finds out what has become of it.
            if server.is_alive:
                await self._check(server)
            if server.is_alive:
                await asyncio.sleep(min(2.0**attempt, LONGEST_WAIT_S))
        errors = "; ".join(server.last_error for server in self.servers if server.last_error)
        raise EngineError(f"servers.urls: gave up after {self.max_retries + 1} attempts: {errors}")

    async def update(self, sync: Sync, model: "PreTrainedModel", version: str) -> None:
        """Give all that answer the weights of a model, and let them forget what was cached under the old ones.

        Raises EngineError if none has them then.
        """
        self.version = version
        given = await sync(self.servers, model)
        for server in self.servers:
            server.is_alive = server in given
        await gather_done(given, self._settle)
        if not self.alive:
            raise EngineError(f"servers.urls: no server took the new weights: {self.servers[-1].last_error}")

    async def _settle(self, server: Server) -> None:
        """Drop a server's cache and tell it the version of its weights; it is not used if it cannot."""
        server.is_alive = False
        answer = await server.post("/reset_prefix_cache")
        if not answer["success"]:
            raise ServerError(f"{server.url} kept what it had cached under the old weights")
        await server.post("/update_weight_version", {"new_version": self.version})
        server.is_alive = True

    def forget(self, group: int) -> None:
        """A group is done."""
        self.home.pop(group, None)

    async def revive(self) -> None:
        """Look whether servers that failed answer again, with the weights that they should have."""
        await asyncio.gather(*(self._check(server) for server in self.servers if not server.is_alive))

    async def _check(self, server: Server) -> None:
        try:
            if self.version is None:
                await server.look()
                server.is_alive = True
                return
            # One that was started again has the weights that it was started with.
            server.is_alive = await server.version() == self.version
            if not server.is_alive:
                server.last_error = f"{server.url} has lost the weights that it was given"
        except (ServerError, RefusedError) as error:
            server.is_alive, server.last_error = False, str(error)

    def _home_of(self, group: int) -> Server | None:
        """The server of a group, the one with the least to do if it has none; None if none is alive."""
        if group not in self.home or not self.home[group].is_alive:
            alive = self.alive
            if not alive:
                return None
            self.home[group] = min(alive, key=lambda server: server.num_running)
        return self.home[group]
