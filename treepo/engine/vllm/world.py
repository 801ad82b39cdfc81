"""vLLM beside the trainer, in each of the processes that torchrun started: its device, process groups and memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from treepo.utils.foreign_errors import first_line, is_out_of_memory

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


@contextmanager
def memory_beside_trainer() -> Iterator[None]:
    """Raise MemoryError, with the settings to change, where vLLM finds no memory beside what the trainer holds."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        message = "out of memory beside the trainer; lower it, or engine.max_cache_tokens, or set vllm.dtype"
        raise MemoryError(f"vllm.gpu_memory_utilization: {message} ({first_line(error)})") from error


def shut_down(core: Any) -> None:
    """End an LLMEngine and its process groups."""
    with _trainers_groups_kept():
        core.engine_core.shutdown()


def leave_groups() -> None:
    """End the process groups of a vLLM that did not start; else the next one to start would take them for its own."""
    from vllm.distributed import cleanup_dist_env_and_memory  # noqa: PLC0415 - an extra

    with _trainers_groups_kept():
        cleanup_dist_env_and_memory()


@contextmanager
def _trainers_groups_kept() -> Iterator[None]:
    """vLLM would also end the groups of processes that train together."""
    destroy = dist.destroy_process_group

    def destroy_own(group: Any = None) -> None:
        if group is not None:
            destroy(group)

    try:
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.destroy_process_group = destroy_own
        yield
    finally:
        dist.destroy_process_group = destroy
