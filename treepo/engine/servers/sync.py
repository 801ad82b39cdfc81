"""How servers get new weights."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

from treepo.engine.servers.client import RefusedError, Server, ServerError
from treepo.model.export import exported_weights

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

FILE_BYTES = 4 << 30
"""Size at which a file of weights is full."""


class Sync(Protocol):
    """Gives servers the weights of a model; returns those that have them. Runs in the servers' event loop.

    Raises ServerError or RefusedError if it cannot tell which those are.
    """

    async def __call__(self, servers: Sequence[Server], model: "PreTrainedModel") -> list[Server]: ...


@dataclass(frozen=True)
class DiskSync:
    """Weights are saved to a folder that the servers read. Works wherever they see the folder, also on the CPU.

    folder: empty for this machine's own for temporary files. Weights lie in a folder in it while servers read them.
    """

    folder: str = ""

    async def __call__(self, servers: Sequence[Server], model: "PreTrainedModel") -> list[Server]:
        """See Sync."""
        parent = Path(self.folder).absolute() if self.folder else None
        if parent:
            parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="treepo-weights-", dir=parent) as name:
            if parent:
                # Servers may run as another user; who sees what is in the folder is up to who made it.
                Path(name).chmod(0o755)
            await asyncio.to_thread(save_weights, model, Path(name))
            body = {"method": "reload_weights", "kwargs": {"weights_path": name}}
            return await gather_done(servers, lambda server: server.post("/collective_rpc", body))


def save_weights(model: "PreTrainedModel", folder: Path) -> None:
    """Write every weight, as safetensors.

    Output embeddings that are tied are written, too, which `save_pretrained` leaves out: vLLM keeps a copy of them in
    another layout where it does not read them anew.
    """
    from safetensors.torch import save_file  # noqa: PLC0415 - not needed by those that do not train

    batch: dict[str, Tensor] = {}
    number = size = 0
    for name, tensor in exported_weights(model):
        # A copy, since tensors that share memory cannot be saved.
        batch[name] = tensor.detach().to("cpu", copy=True).contiguous()
        size += batch[name].nbytes
        if size >= FILE_BYTES:
            save_file(batch, folder / f"weights-{number:05d}.safetensors")
            batch, number, size = {}, number + 1, 0
    if batch:
        save_file(batch, folder / f"weights-{number:05d}.safetensors")


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
