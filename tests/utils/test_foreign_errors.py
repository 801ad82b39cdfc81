"""What other libraries raise is recognised by what they really raise."""

import errno
import os
import resource
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file

from tests.processes import run_in
from treepo.distributed import DistContext
from treepo.utils.foreign_errors import as_os_error, first_line, is_lost_process, is_out_of_memory


@pytest.mark.parametrize("take", [lambda: torch.empty(1 << 60, dtype=torch.uint8), lambda: np.empty(1 << 60, np.uint8)])
def test_allocators_that_find_no_memory(take: Callable[[], object]) -> None:
    """PyTorch's and numpy's, asked for more than any machine has."""
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        take()
    assert is_out_of_memory(caught.value)
    assert not is_lost_process(caught.value)


def test_an_error_of_cuda_is_recognised_by_its_class() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("whatever it says"))


def test_another_error_is_neither() -> None:
    """Such as that of shapes that do not fit, or of a file that is named after memory."""
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_out_of_memory(caught.value) and not is_lost_process(caught.value)
    assert not is_out_of_memory(OSError("out of memory.txt"))


def test_memory_that_nccl_lacks_is_not_asked_for_again() -> None:
    """Its connections are lost with it; the update began again and waited for the others until the timeout."""
    error = dist.DistBackendError("NCCL error: unhandled cuda error. Last error: Cuda failure 2 'out of memory'")
    assert is_lost_process(error) and not is_out_of_memory(error)


def test_what_safetensors_says_of_a_disk(tmp_path: Path) -> None:
    """Its error is no OSError."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(SafetensorError) as full:
            save_file({"x": torch.zeros(10_000)}, tmp_path / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(SafetensorError) as absent:
        save_file({"x": torch.zeros(10)}, tmp_path / "no" / "file")
    found = [as_os_error(error.value) for error in (full, absent)]
    assert [getattr(error, "errno", None) for error in found] == [errno.EFBIG, errno.ENOENT]
    assert as_os_error(other := SafetensorError("a header")) is other


def leave_alone(processes: DistContext, folder: Path) -> None:
    """The second process ends without a word, and the first one waits for it."""
    processes.all_gather(0)
    if processes.rank == 1:
        os._exit(0)
    with pytest.raises(RuntimeError) as caught:
        dist.all_gather_object([None, None], 0, group=processes.group)
    assert is_lost_process(caught.value)
    assert not is_out_of_memory(caught.value)
    (folder / "recognised").touch()


def test_gloo_without_the_other_process(tmp_path: Path) -> None:
    run_in(2, leave_alone, tmp_path)
    assert (tmp_path / "recognised").exists()


def test_a_process_that_nobody_answers() -> None:
    """The store has a class of its own."""
    with pytest.raises(dist.DistError) as caught:
        dist.TCPStore("127.0.0.1", 1, is_master=False, timeout=timedelta(seconds=0.2))
    assert is_lost_process(caught.value)


def test_the_first_line_is_short() -> None:
    assert first_line(RuntimeError("\n one\ntwo")) == "one"
    assert len(first_line(RuntimeError(300 * "x"))) == 200
