"""Errors of other libraries that have no class of their own and are recognised by their text.

Each function names the libraries and the versions whose texts it was tested with (tests/utils/test_foreign_errors.py).
"""

import torch
import torch.distributed as dist

OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator found no memory, on a GPU or on the CPU.

    PyTorch 2.13: torch.OutOfMemoryError for CUDA; a plain RuntimeError for the CPU ("can't allocate memory", on Windows
    "not enough memory") and for cuBLAS. numpy 2 and Python raise MemoryError.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)


def is_lost_process(error: BaseException) -> bool:
    """Whether a collective failed because another process ended or cannot be reached.

    PyTorch 2.13: dist.DistError for NCCL; gloo raises a plain RuntimeError whose text names its source file ("gloo/").
    """
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/" in str(error))


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 200 characters."""
    return str(error).strip().partition("\n")[0][:200]
