"""Tensors to a folder of safetensors and back, through torch.distributed.checkpoint.

Its own storage keeps an index that it reads with pickle (`.metadata`); its Hugging Face storage keeps names, shapes and
offsets in the headers of the safetensors files. Every process writes its shards to a file of its own, so that what
several processes wrote, others, or one, can read.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from treepo.processes import LostError, is_lost


def save_tensors(folder: Path, tensors: Mapping[str, Tensor], group: ProcessGroup | None = None) -> None:
    """Write tensors, of each this process's share; what is written is on disk when this returns.

    group: the processes that share them; this one alone has them if not given. Raises OSError, in all of them, if it
    cannot be written.
    """
    _expect_one_process()
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(dict(tensors), storage_writer=writer, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        raise _cause(error) from error
    except RuntimeError as error:
        raise (LostError(str(error)) if is_lost(error) else error) from error


def load_tensors(folder: Path, tensors: Mapping[str, Tensor], group: ProcessGroup | None = None) -> None:
    """Read tensors in place, of each this process's share. group: as `save_tensors` says.

    Raises OSError if the folder cannot be read, RuntimeError if it lacks one of the tensors or has another shape.
    """
    _expect_one_process()
    try:
        reader = HuggingFaceStorageReader(str(folder))
        load(dict(tensors), storage_reader=reader, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        raise _cause(error) from error


def saved_shapes(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Name -> (shape, type) of the whole tensors in a folder."""
    saved = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {k: (v.size, v.properties.dtype) for k, v in saved.items() if isinstance(v, TensorStorageMetadata)}


def _cause(error: CheckpointException) -> BaseException:
    """What went wrong, in the first process where something did."""
    return next(iter(error.failures.values()))[0]


def _expect_one_process() -> None:
    """Without a process group torch warns that it will work in one process, which is what is meant.

    The filter stays: filters belong to the whole process, and one that is taken back could not be set in a thread.
    """
    warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)
