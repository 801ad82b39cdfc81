"""Sending new weights to servers: through a shared folder, or over NCCL."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from treepo.engine.server.answers import world_size_of
from treepo.engine.server.client import Server
from treepo.errors import RefusedError, ServerError
from treepo.utils.foreign_errors import as_os_error
from treepo.utils.io import writing

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from treepo.model.exported import ExportedWeights


# pyright: reportMissingImports=false

T = TypeVar("T")

FILE_BYTES = 4 << 30
"""Size at which a file of weights is full."""


class WeightSync(Protocol):
    """Sends the weights of a model to servers and returns those that took them. Runs in the servers' event loop.

    Raises ServerError or RefusedError if it is not known which those are.
    """

    async def __call__(self, servers: Sequence[Server], weights: "ExportedWeights") -> list[Server]: ...

    async def close(self) -> None:
        """Release what it holds between updates."""


@dataclass(frozen=True)
class DiskSync(WeightSync):
    """Saves the weights to a folder that the servers read; works on any device.

    folder: empty for the machine's folder for temporary files. Weights lie in it while servers read them.
    """

    folder: str = ""

    async def __call__(self, servers: Sequence[Server], weights: "ExportedWeights") -> list[Server]:
        parent = Path(self.folder or gettempdir()).absolute()
        with ExitStack() as stack:
            with writing(parent, "the weights that the servers are to load (servers.folder)"):
                parent.mkdir(parents=True, exist_ok=True)
                name = stack.enter_context(TemporaryDirectory(prefix="treepo-weights-", dir=parent))
                if self.folder:
                    # Servers may run as another user; the permissions of the parent say who may read.
                    Path(name).chmod(0o755)
                await asyncio.to_thread(save_weights, weights, Path(name))
            body = {"method": "reload_weights", "kwargs": {"weights_path": name}}
            return await gather_done(servers, lambda server: server.post("/collective_rpc", body))


def save_weights(weights: Iterable[tuple[str, "Tensor"]], folder: Path) -> None:
    """Write weights by name, as safetensors that whoever may list the folder may read. Raises OSError.

    Tied output embeddings are written, too, which `save_pretrained` leaves out: otherwise vLLM keeps the old ones where
    it holds a copy in another layout.
    """
    mode = folder.stat().st_mode & 0o666
    batch: dict[str, Tensor] = {}
    number = size = 0
    for name, tensor in weights:
        # A copy, since tensors that share memory cannot be saved.
        batch[name] = tensor.detach().to("cpu", copy=True).contiguous()
        size += batch[name].nbytes
        if size >= FILE_BYTES:
            _save(batch, folder / f"weights-{number:05d}.safetensors", mode)
            batch, number, size = {}, number + 1, 0
    if batch:
        _save(batch, folder / f"weights-{number:05d}.safetensors", mode)


def _save(weights: "dict[str, Tensor]", path: Path, mode: int) -> None:
    from safetensors import SafetensorError  # noqa: PLC0415 - needed only here
    from safetensors.torch import save_file  # noqa: PLC0415

    try:
        save_file(weights, path)
    except SafetensorError as error:
        raise as_os_error(error) from error
    # By itself only this user could read it.
    path.chmod(mode)


async def gather_done(servers: Sequence[Server], ask: Callable[[Server], Awaitable[object]]) -> list[Server]:
    """Ask all servers at once and return those that answered; the others' errors are noted."""

    async def attempt(server: Server) -> bool:
        try:
            await ask(server)
        except (ServerError, RefusedError) as error:
            server.last_error = str(error)
            return False
        return True

    done = await asyncio.gather(*map(attempt, servers))
    return [server for server, has_done in zip(servers, done, strict=True) if has_done]


@dataclass
class NcclSync:
    """Broadcasts the trainer's weights to the workers of all servers that answer, by vLLM's weight transfer.

    address: the trainer's, with a port. device: the GPU with the weights; the current one if negative. The process
    group is made anew when other servers answer than before, one of them was restarted, or the last transfer failed.
    """

    address: str
    device: "torch.device | int" = -1
    members: list[Server] = field(default_factory=list)
    transfer: Any = None

    async def __call__(self, servers: Sequence[Server], weights: "ExportedWeights") -> list[Server]:
        sizes: dict[Server, int] = {}
        out_of_step: list[Server] = []

        async def ask(server: Server) -> None:
            sizes[server] = await server.get("/get_world_size", world_size_of)
            # It was restarted, or the last transfer failed.
            if await server.weight_version() != server.version:
                out_of_step.append(server)

        members = await gather_done(servers, ask)
        try:
            if members != self.members or out_of_step:
                members = await self._gather(members, sizes, weights)
            if members:
                self.transfer.source.weights = weights
                await asyncio.to_thread(self._on_device, self.transfer.send_weights)
        except RuntimeError as error:
            raise ServerError(f"the transfer over NCCL failed: {' '.join(str(error).split())[:300]}") from error
        self.members = members
        return members

    async def close(self) -> None:
        if self.transfer:
            await asyncio.to_thread(self._on_device, self.transfer.shutdown)
            self.transfer, self.members = None, []

    async def _gather(
        self, servers: Sequence[Server], sizes: Mapping[Server, int], weights: "ExportedWeights"
    ) -> list[Server]:
        """Make a new process group of the servers that left the last one."""
        await self.close()
        members = await gather_done(servers, lambda server: server.post("/shutdown_weight_transfer_engine"))
        if members:
            control = Control(members, [sizes[server] for server in members], asyncio.get_running_loop())
            self.transfer = await asyncio.to_thread(self._on_device, self._open, control, weights)
        return members

    def _on_device(self, work: Callable[..., T], *args: Any) -> T:
        """Do some work on the GPU with the weights: vLLM uses the current one, in a new thread the first."""
        import torch  # noqa: PLC0415 - slow to load

        with torch.cuda.device(self.device):
            return work(*args)

    def _open(self, control: "Control", weights: "ExportedWeights") -> Any:
        """Open the trainer's side of the transfer; the servers join meanwhile."""
        from vllm.distributed.weight_transfer.nccl_engine import (  # noqa: PLC0415 - an extra
            NCCLTrainerInitInfo,
            NCCLTrainerWeightTransferEngine,
        )

        host, _, port = self.address.rpartition(":")
        info = NCCLTrainerInitInfo(host, int(port), 1 + sum(control.sizes), rank=0)
        return NCCLTrainerWeightTransferEngine.trainer_init(info, client=control, source=TransferSource(weights))


@dataclass(frozen=True)
class Control:
    """The client through which vLLM's weight transfer controls the servers: each call goes to all of them at once.

    sizes: workers of each. loop: event loop of the servers' connections; methods are called from another thread.
    """

    servers: Sequence[Server]
    sizes: Sequence[int]
    loop: asyncio.AbstractEventLoop

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Join all workers: each server's ranks follow those of the servers before it; the trainer is rank 0."""
        offsets = [1 + sum(self.sizes[:i]) for i in range(len(self.servers))]
        self._post("/init_weight_transfer_engine", [{"init_info": init_info | {"rank_offset": n}} for n in offsets])

    def start_weight_update(self) -> None:
        """Announce new weights."""
        self._post("/start_weight_update", [None] * len(self.servers))

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Send names, types and shapes; returns when the weights have been received."""
        self._post("/update_weights", [{"update_info": update_info}] * len(self.servers))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """End the update."""
        self._post("/finish_weight_update", [{"weight_version": weight_version}] * len(self.servers))

    def _post(self, path: str, bodies: Sequence[object]) -> None:
        async def post_all() -> None:
            await asyncio.gather(*(s.post(path, body) for s, body in zip(self.servers, bodies, strict=True)))

        asyncio.run_coroutine_threadsafe(post_all(), self.loop).result()


@dataclass
class TransferSource:
    """Weights in the form that vLLM's weight transfer reads, others for every update."""

    weights: "ExportedWeights"

    def metadata(self) -> list[Any]:
        """Return name, type and shape of each weight."""
        from vllm.distributed.weight_transfer.base import ParamMeta  # noqa: PLC0415 - an extra

        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.weights.shapes()]

    def __iter__(self) -> Iterator[tuple[str, "Tensor"]]:
        return iter(self.weights)
