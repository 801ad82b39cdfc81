"""Passes over a model that several processes share, in step also where memory runs out in one of them.

FSDP2 gathers a layer's weights and reduces its gradients with collectives, in which all processes have to take part. A
process without memory for its own pass makes a tiny one in its place, and leaves out as many of its collectives as it
took part in before: so none of the others waits for ever, and in the end all know of it.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from treepo.errors import MicroBatchMemoryError
from treepo.utils.foreign_errors import first_line, is_out_of_memory

if TYPE_CHECKING:
    from treepo.distributed import DistContext

COMMS = "pass_comms"
"""Name of the attribute of a sharded model that holds its PassComms."""

# Their names before PyTorch 2.13, which still has them, with a warning.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

BUFFERS = 2
"""Buffers that FSDP2 allocates for a reduction of gradients: before it is scattered, and after."""


def run_in_step(
    model: nn.Module, processes: "DistContext", batches: Sequence[list[int]], run: Callable[[list[int]], None]
) -> None:
    """Run a pass for each micro-batch; all processes have as many.

    run: makes a pass over the trees at these places, or over a placeholder if there are none. Raises
    MicroBatchMemoryError, in all processes, if memory ran out in one of them, once none holds anything of it.
    """
    reason = ""
    for indices in batches:
        try:
            begin_pass(model)
            run([] if reason else indices)
            continue
        except (RuntimeError, MemoryError) as error:
            if reason or not is_out_of_memory(error):
                raise
            reason = first_line(error) or type(error).__name__
        # Not while the error is handled: it keeps the tensors of the failed pass alive.
        abandon_pass(model)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if processes.world_size == 1:
            break
        run([])
        begin_pass(model)
    for found in processes.all_gather(reason):
        if found:
            raise MicroBatchMemoryError(found)


class PassComms:
    """Counts the collectives of a pass, or leaves out the first ones of a pass that is made in its place.

    num_done: gathers of weights and scatters of gradients; num_reduced: sums of gradients over replicas. num_skipped:
    how many of the first are left out; num_unreduced: buffers of the reductions whose sums are still to be left out.
    """

    def __init__(self, parts: Sequence[FSDPModule]) -> None:
        self.parts = parts
        self.num_done = self.num_reduced = self.num_skipped = self.num_unreduced = 0

    def begin(self, num_skipped: int = 0, num_unreduced: int = 0) -> None:
        """Begin a pass that leaves out so many gathers or scatters, and so many sums."""
        self.num_done = self.num_reduced = 0
        self.num_skipped, self.num_unreduced = num_skipped, BUFFERS * num_unreduced
        self._set_reduces(num_unreduced == 0)

    def run(self, collective: Callable[[], dist.Work | None], output: Tensor, num_sent_bytes: int) -> dist.Work | None:
        """Make a gather or scatter that fills the output, unless it is to be left out, and count it."""
        work = None
        if self.num_done < self.num_skipped:
            output.zero_()
        else:
            if output.device.type == "cpu":
                # gloo takes room for a copy; where it finds none, the processes disagree on what is sent from then on.
                torch.empty(output.nbytes + num_sent_bytes, dtype=torch.uint8)
            work = collective()
        self.num_done += 1
        return work

    def count_buffer(self) -> None:
        """Count a buffer of a reduction; FSDP2 has decided before whether its sum is made."""
        if self.num_unreduced:
            self.num_unreduced -= 1
            self._set_reduces(self.num_unreduced == 0)

    def count_sum(self, _: Tensor) -> None:
        """Count a sum over replicas."""
        self.num_reduced += 1

    def _set_reduces(self, value: bool) -> None:
        for part in self.parts:
            part.set_requires_all_reduce(value, recurse=False)


class Gather:
    """Gathers weights, unless that is to be left out: FSDP2's interface `AllGather`."""

    def __init__(self, comms: PassComms) -> None:
        self.comms = comms

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Room for the weights."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        """Fill the output with the inputs of all processes."""
        gather = partial(all_gather, output_tensor, input_tensor, group=group, async_op=async_op)
        return self.comms.run(gather, output_tensor, input_tensor.nbytes)


class Scatter:
    """Sums gradients and keeps a shard, unless that is to be left out: FSDP2's interface `ReduceScatter`."""

    def __init__(self, comms: PassComms) -> None:
        self.comms = comms

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Room for the gradients."""
        self.comms.count_buffer()
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> dist.Work | None:
        """Fill the output with this process's shard of the sum."""
        scatter = partial(reduce_scatter, output_tensor, input_tensor, op=op, group=group, async_op=async_op)
        return self.comms.run(scatter, output_tensor, input_tensor.nbytes)


def count_collectives(model: nn.Module, parts: Sequence[FSDPModule], has_replicas: bool) -> None:
    """Let the collectives of a model that was just sharded be counted."""
    comms = PassComms(parts)
    setattr(model, COMMS, comms)
    for part in parts:
        part.set_custom_all_gather(Gather(comms))  # pyright: ignore[reportArgumentType] - the interface is not public
        part.set_custom_reduce_scatter(Scatter(comms))  # pyright: ignore[reportArgumentType]
        if has_replicas:
            part.set_all_reduce_hook(comms.count_sum)


def begin_pass(model: nn.Module) -> None:
    """Count from here on, with no weights gathered: a forward without a backward may leave some, and collectives of a
    pass must not depend on the passes before it."""
    if isinstance(comms := getattr(model, COMMS, None), PassComms):
        for part in comms.parts:
            part.reshard()
        comms.begin()


def abandon_pass(model: nn.Module) -> None:
    """Forget a pass that failed in its middle, so that another can be made, which leaves out what was done in it.

    There is no public way: what FSDP2 does at the end of a backward pass is done without gradients (PyTorch 2.13).
    """
    for parameter in model.parameters():
        parameter.grad = None
    if not isinstance(comms := getattr(model, COMMS, None), PassComms):
        return
    states = [part._get_fsdp_state() for part in comms.parts]
    for group in (group for state in states for group in _parameter_groups(state)):
        for own in group.fsdp_params:
            own.unsharded_accumulated_grad = None
            with suppress(AttributeError):
                # It has none before it was first gathered.
                own.unsharded_param.grad = None
        group._partial_reduce_output = None
    # Before the first forward there is none, and nothing to forget.
    for root in (state for state in states if state._is_root):
        root._root_post_backward_final_callback()
        root._comm_ctx.all_gather_state = None
    comms.begin(comms.num_done, comms.num_reduced)


def _parameter_groups(state: Any) -> Sequence[Any]:
    """FSDP2's groups of parameters of a module; before PyTorch 2.13 there is at most one."""
    if hasattr(state, "_fsdp_param_groups"):
        return state._fsdp_param_groups
    return [group for group in [state._fsdp_param_group] if group is not None]
