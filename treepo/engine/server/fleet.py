"""Several servers: who gets what, and what becomes of it when one of them fails."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from treepo.engine.base import SampleRequest, SampleResult
from treepo.engine.server.client import RefusedError, Server, ServerError
from treepo.engine.server.weight_sync import Sync, gather_done
from treepo.errors import EngineError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


PAUSE_S = 1.0
"""Before a server that failed is asked again; twice as long each time, and at most LONGEST_PAUSE_S."""

LONGEST_PAUSE_S = 30.0

WATCH_S = 10.0
"""How often servers that failed are looked after."""

FOLLOW_S = 0.2
"""How often one looks whether another process has given servers new weights."""

DROP_S = 10.0
"""How long a server may take to end requests that nobody waits for any more."""


@dataclass(eq=False)
class Fleet:
    """Servers, and which of them each group is at home with. Everything here runs in one event loop."""

    servers: Sequence[Server]
    max_retries: int
    home: dict[int, Server] = field(default_factory=dict)

    @property
    def alive(self) -> list[Server]:
        """Those that answer, with the weights that they should have."""
        return [server for server in self.servers if server.is_alive]

    async def complete(self, request: SampleRequest, eos_ids: Sequence[int]) -> tuple[SampleResult, int]:
        """(a segment, tokens of its prefix that were cached), from whichever server is alive.

        Raises EngineError if the request is refused or fails more than max_retries times.
        """
        last: Server | None = None
        for attempt in range(self.max_retries + 1):
            server = self._home_of(request.group, last)
            if server is None or server is last:
                await asyncio.sleep(min(PAUSE_S * 2.0**attempt, LONGEST_PAUSE_S))
                await self.revive()
                server = self._home_of(request.group, last)
            if server is not None:
                try:
                    return await self._ask(server, request, eos_ids)
                except ServerError as error:
                    last = server
                    # Until it has answered the simplest of questions, nobody else need find out.
                    server.is_alive, server.last_error = False, str(error)
                    await self._check(server)
        raise EngineError(f"servers.urls: gave up after {self.max_retries + 1} attempts: {self._errors()}")

    async def update(self, sync: Sync, model: "PreTrainedModel", version: str) -> None:
        """Give all that answer the weights of a model, and let them forget what was cached under the old ones.

        Raises EngineError if none has them then.
        """
        try:
            given = await sync(self.servers, model)
        except (ServerError, RefusedError) as error:
            raise EngineError(f"servers.urls: the new weights could not be sent: {error}") from error
        finally:
            for server in self.servers:
                server.version, server.is_alive = version, False
        await gather_done(given, self._settle)
        if not self.alive:
            raise EngineError(f"servers.urls: no server took the new weights: {self._errors()}")

    async def follow(self, version: str, timeout_s: float) -> None:
        """Wait until a server has the weights of a version, which another process gives them.

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
        """Look whether servers that failed answer again, with the weights that they should have."""
        await asyncio.gather(*(self._check(server) for server in self.servers if not server.is_alive))

    async def watch(self) -> None:
        """Look after servers that failed for as long as this runs."""
        while True:
            await asyncio.sleep(WATCH_S)
            await self.revive()

    def forget(self, group: int) -> None:
        """A group is done."""
        self.home.pop(group, None)

    async def _ask(self, server: Server, request: SampleRequest, eos_ids: Sequence[int]) -> tuple[SampleResult, int]:
        server.num_running += 1
        try:
            answer = await server.complete(request, eos_ids)
            # One that was started again since the last answer has the weights that it was started with.
            if await server.weight_version() != server.version:
                raise ServerError(f"{server.url} has lost the weights that it was given")
            return answer
        finally:
            server.num_running -= 1

    async def _settle(self, server: Server) -> None:
        """Drop a server's cache and tell it the version of its weights; it is not used if it cannot."""
        pause = 0.05
        while not await server.drop_cache():
            if pause > DROP_S / 2:
                raise ServerError(f"{server.url} kept what it had cached under the old weights")
            await asyncio.sleep(pause)
            pause *= 2
        await server.post("/update_weight_version", {"new_version": server.version})
        server.is_alive, server.last_error = True, ""

    async def _check(self, server: Server) -> None:
        """Look once for all that want to know now: of many requests that fail with a server, each one asks."""
        if server.check is None:
            server.check = asyncio.create_task(self._look(server))
        await asyncio.shield(server.check)

    async def _look(self, server: Server) -> None:
        """A server that answers, with the weights that it should have, is alive again."""
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
        """The server of a group; if it has none, or that one is dead or the last that failed, the one with the least to
        do, where there is a choice. None if none is alive."""
        home = self.home.get(group)
        if home is not None and home.is_alive and home is not last:
            return home
        choice = [server for server in self.alive if server is not last] or self.alive
        if not choice:
            return None
        self.home[group] = min(choice, key=lambda server: server.num_running)
        return self.home[group]

    def _errors(self) -> str:
        return "; ".join(server.last_error for server in self.servers if server.last_error)
