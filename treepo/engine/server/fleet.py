"""Several servers: which requests each gets, and what happens when one of them fails."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from treepo.engine.base import SampleRequest, SampleResult
from treepo.engine.server.answers import Vocabulary
from treepo.engine.server.client import Server
from treepo.engine.server.weight_sync import WeightSync, gather_done
from treepo.errors import EngineError, RefusedError, ServerError

if TYPE_CHECKING:
    from treepo.model.exported import ExportedWeights

RETRY_S = 1.0
"""Wait before a server that failed is asked again; twice as long each time, and at most MAX_RETRY_S."""

MAX_RETRY_S = 30.0

WATCH_S = 10.0
"""Seconds between health checks of servers that failed."""

FOLLOW_S = 0.2
"""Seconds between checks whether another process has given servers new weights."""

DROP_S = 10.0
"""Longest time in which a server may end aborted requests."""


@dataclass(eq=False)
class Fleet:
    """Servers, and the home of each group: the server whose cache it uses. Everything here runs in one event loop."""

    servers: Sequence[Server]
    max_retries: int
    home: dict[int, Server] = field(default_factory=dict)

    @property
    def alive(self) -> list[Server]:
        """The servers that answer, with the weights that they should have."""
        return [server for server in self.servers if server.is_alive]

    async def complete(self, request: SampleRequest, vocabulary: Vocabulary) -> tuple[SampleResult, int]:
        """Return (a segment, tokens of its prefix that were cached), from whichever server is alive.

        Raises EngineError if the request is refused or fails more than max_retries times.
        """
        last: Server | None = None
        for attempt in range(self.max_retries + 1):
            server = self._home_of(request.group, last)
            if server is None or server is last:
                await asyncio.sleep(min(RETRY_S * 2.0**attempt, MAX_RETRY_S))
                await self.revive()
                server = self._home_of(request.group, last)
            if server is not None:
                try:
                    return await self._complete_on(server, request, vocabulary)
                except ServerError as error:
                    last = server
                    # No other request goes there until a health check succeeds.
                    server.is_alive, server.last_error = False, str(error)
                    await self._check(server)
        raise EngineError(f"servers.urls: gave up after {self.max_retries + 1} attempts: {self._errors()}")

    async def update(self, sync: WeightSync, weights: "ExportedWeights", version: str) -> None:
        """Give all servers that answer new weights and clear their caches.

        Raises EngineError if no server has the weights then.
        """
        try:
            given = await sync(self.servers, weights)
        except (ServerError, RefusedError) as error:
            raise EngineError(f"servers.urls: the new weights could not be sent: {error}") from error
        finally:
            for server in self.servers:
                server.version, server.is_alive = version, False
        await gather_done(given, self._settle)
        if not self.alive:
            raise EngineError(f"servers.urls: no server took the new weights: {self._errors()}")

    async def follow(self, version: str, timeout_s: float) -> None:
        """Wait until a server has the weights of a version, which another process sends.

        Raises EngineError if none has them in time.
        """
        for server in self.servers:
            server.version, server.is_alive = version, False
        waited = 0.0
        while not self.alive:
            if waited >= timeout_s:
                raise EngineError(f"servers.urls: no server took the new weights: {self._errors()}")
            await self.revive()
            if not self.alive:
                await asyncio.sleep(FOLLOW_S)
                waited += FOLLOW_S

    async def revive(self) -> None:
        """Check whether servers that failed answer again, with the weights that they should have."""
        await asyncio.gather(*(self._check(server) for server in self.servers if not server.is_alive))

    async def watch(self) -> None:
        """Check servers that failed every WATCH_S seconds."""
        while True:
            await asyncio.sleep(WATCH_S)
            await self.revive()

    async def _complete_on(
        self, server: Server, request: SampleRequest, vocabulary: Vocabulary
    ) -> tuple[SampleResult, int]:
        server.num_running += 1
        try:
            answer = await server.complete(request, vocabulary)
            # A server that was restarted since the last answer has the weights that it was started with.
            if await server.weight_version() != server.version:
                raise ServerError(f"{server.url} has lost the weights that it was given")
            return answer
        finally:
            server.num_running -= 1

    async def _settle(self, server: Server) -> None:
        """Clear a server's cache and set the version of its weights; it is not used if that fails."""
        pause = 0.05
        while not await server.drop_cache():
            if pause > DROP_S / 2:
                raise ServerError(f"{server.url} kept what it had cached under the old weights")
            await asyncio.sleep(pause)
            pause *= 2
        await server.post("/update_weight_version", {"new_version": server.version})
        server.is_alive, server.last_error = True, ""

    async def _check(self, server: Server) -> None:
        """Check a server, once for all requests that failed with it."""
        if server.check is None:
            server.check = asyncio.create_task(self._check_once(server))
        await asyncio.shield(server.check)

    async def _check_once(self, server: Server) -> None:
        """Mark a server alive if it answers, with the weights that it should have."""
        try:
            if await server.weight_version() == server.version:
                server.is_alive = True
            else:
                server.last_error = f"{server.url} has lost the weights that it was given"
        except (ServerError, RefusedError) as error:
            server.last_error = str(error)
        finally:
            server.check = None

    def _home_of(self, group: int, last: Server | None) -> Server | None:
        """The server of a group; if it has none, or that one is dead or failed last, the one with the fewest requests,
        where there is a choice. None if none is alive."""
        home = self.home.get(group)
        if home is not None and home.is_alive and home is not last:
            return home
        choice = [server for server in self.alive if server is not last] or self.alive
        if choice:
            self.home[group] = min(choice, key=lambda server: server.num_running)
        return self.home[group] if choice else None

    def _errors(self) -> str:
        return "; ".join(server.last_error for server in self.servers if server.last_error)
