"""How servers get new weights."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Protocol

from treepo.engine.servers.client import RefusedError, Server, ServerError
from treepo.model.lora import has_adapter, merged

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Sync(Protocol):
    """Gives servers the weights of a model; returns those that have them. Runs in the servers' event loop."""

    async def __call__(self, servers: Sequence[Server], model: "PreTrainedModel") -> list[Server]: ...


@dataclass
class DiskSync:
    """The model is saved to a folder that the servers read again. Works wherever they see the folder, also on the CPU.

    folder: empty for a temporary one. Each update has a folder of its own, since a server may still read the last one.
    """

    folder: str = ""
    num_updates: int = 0

    async def __call__(self, servers: Sequence[Server], model: "PreTrainedModel") -> list[Server]:
        self.folder = self.folder or mkdtemp(prefix="treepo-weights-")
        self.num_updates += 1
        place = Path(self.folder).absolute() / f"weights-{self.num_updates:06d}"
        (merged(model) if has_adapter(model) else model).save_pretrained(place)
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(place)}}
        done = await gather_done(servers, lambda server: server.post("/collective_rpc", body))
        old = place.with_name(f"weights-{self.num_updates - 1:06d}")
        rmtree(old, ignore_errors=True)
        return done


async def gather_done(servers: Sequence[Server], ask: Callable[[Server], Awaitable[object]]) -> list[Server]:
    """Ask all servers at once; those that did what they were asked. Others note why not."""

    async def attempt(server: Server) -> bool:
        try:
            await ask(server)
        except (ServerError, RefusedError) as error:
            server.last_error = str(error)
            return False
        return True

    done = await asyncio.gather(*map(attempt, servers))
    return [server for server, has_done in zip(servers, done, strict=True) if has_done]
