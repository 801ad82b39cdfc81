"""How servers get new weights: over a shared folder, or over NCCL."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

from treepo.engine.server.client import RefusedError, Server, ServerError
from treepo.model.policy import exported_weights

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


# pyright: reportMissingImports=false


@dataclass
class NcclSync:
    """The trainer broadcasts its weights to the workers of all servers that answer.

    address: the trainer's, with a port. The group of processes is made anew when other servers answer than before, one
    of them was started again, or the last transfer failed.
    """

    address: str
    members: list[Server] = field(default_factory=list)
    transfer: Any = None

    async def __call__(self, servers: Sequence[Server], model: "PreTrainedModel") -> list[Server]:
        """See Sync."""
        sizes: dict[Server, int] = {}
        out_of_step: list[Server] = []

        async def ask(server: Server) -> None:
            sizes[server] = await server.get("/get_world_size", lambda text: int(json.loads(text)["world_size"]))
            # It was started again, or the last transfer failed.
            if await server.weight_version() != server.version:
                out_of_step.append(server)

        members = await gather_done(servers, ask)
        try:
            if members != self.members or out_of_step:
                members = await self._gather(members, sizes, model)
            if members:
                self.transfer.source.model = model
                await asyncio.to_thread(self.transfer.send_weights)
        except RuntimeError as error:
            raise ServerError(f"the transfer over NCCL failed: {' '.join(str(error).split())[:300]}") from error
        self.members = members
        return members

    async def _gather(
        self, servers: Sequence[Server], sizes: Mapping[Server, int], model: "PreTrainedModel"
    ) -> list[Server]:
        """Make the group anew, of those that left the last one."""
        if self.transfer:
            self.transfer.shutdown()
            self.transfer = None
        members = await gather_done(servers, lambda server: server.post("/shutdown_weight_transfer_engine"))
        if members:
            control = Control(members, [sizes[server] for server in members], asyncio.get_running_loop())
            self.transfer = await asyncio.to_thread(self._open, control, model)
        return members

    def _open(self, control: "Control", model: "PreTrainedModel") -> Any:
        """The trainer's side of the transfer; the servers join while it is opened."""
        from vllm.distributed.weight_transfer.nccl_engine import (  # noqa: PLC0415 - an extra
            NCCLTrainerInitInfo,
            NCCLTrainerWeightTransferEngine,
        )

        host, _, port = self.address.rpartition(":")
        info = NCCLTrainerInitInfo(host, int(port), 1 + sum(control.sizes), rank=0)
        return NCCLTrainerWeightTransferEngine.trainer_init(info, client=control, source=Source(model))


@dataclass(frozen=True)
class Control:
    """What vLLM's transfer tells the servers, passed on to all of them at once.

    sizes: workers of each. loop: where the servers are spoken to; every method is called from another thread.
    """

    servers: Sequence[Server]
    sizes: Sequence[int]
    loop: asyncio.AbstractEventLoop

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Each server's workers come behind those of the servers before it; the trainer is rank 0."""
        offsets = [1 + sum(self.sizes[:i]) for i in range(len(self.servers))]
        self._post("/init_weight_transfer_engine", [{"init_info": init_info | {"rank_offset": n}} for n in offsets])

    def start_weight_update(self) -> None:
        """Weights are coming."""
        self._post("/start_weight_update", [None] * len(self.servers))

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Their names, types and shapes; returns when they have been received."""
        self._post("/update_weights", [{"update_info": update_info}] * len(self.servers))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """That was all."""
        self._post("/finish_weight_update", [{"weight_version": weight_version}] * len(self.servers))

    def _post(self, path: str, bodies: Sequence[object]) -> None:
        async def everywhere() -> None:
            await asyncio.gather(*(s.post(path, body) for s, body in zip(self.servers, bodies, strict=True)))

        asyncio.run_coroutine_threadsafe(everywhere(), self.loop).result()


@dataclass
class Source:
    """A model's weights as vLLM's transfer asks for them, again for every update."""

    model: "PreTrainedModel"

    def metadata(self) -> list[Any]:
        """Name, type and shape of each."""
        from vllm.distributed.weight_transfer.base import ParamMeta  # noqa: PLC0415 - an extra

        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self]

    def __iter__(self) -> Iterator[tuple[str, "Tensor"]]:
        return exported_weights(self.model)
