"""vLLM among the processes that torchrun started: each has an engine of its own, over its own device."""

from typing import Any

import torch.distributed as dist

# pyright: reportMissingImports=false


def make_executor(local_rank: int) -> type:
    """Return the class of executors that run vLLM in this process, on the GPU of this index.

    vLLM's own executor takes the first GPU, and the one for external launchers measures memory in all processes
    together, so that they would wait for one that could not start.
    """
    from vllm.v1.executor.uniproc_executor import UniProcExecutor  # noqa: PLC0415 - an extra

    class DeviceExecutor(UniProcExecutor):
        def _distributed_args(self) -> tuple[str, int, int]:
            method, rank, _ = super()._distributed_args()
            # vLLM's folders of compiled code are named after the rank.
            return method, dist.get_rank() if dist.is_initialized() else rank, local_rank

    return DeviceExecutor


def shut_down(core: Any) -> None:
    """End an LLMEngine and its process groups. It would end those of processes that train together, too; they stay."""
    destroy = dist.destroy_process_group

    def destroy_own(group: Any = None) -> None:
        if group is not None:
            destroy(group)

    is_guest = dist.is_initialized() and dist.get_world_size() > 1
    try:
        if is_guest:
            dist.destroy_process_group = destroy_own
        core.engine_core.shutdown()
    finally:
        dist.destroy_process_group = destroy
