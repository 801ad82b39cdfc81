"""What every report holds, and the folder that it is kept in."""

import platform
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import transformers
from pydantic import TypeAdapter
from transformers import PreTrainedModel

from treepo.engine.vllm.start import installed

W = TypeVar("W")


@dataclass(frozen=True)
class BenchReport(Generic[W]):
    """One measurement with everything it depends on; W: what is reported of each workload."""

    command: str
    machine: dict[str, str | int]
    model: dict[str, str | int]
    settings: dict[str, Any]
    workloads: tuple[W, ...]


def describe_machine(device: str) -> dict[str, str | int]:
    """Versions and processor, as the libraries name them."""
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "processor": platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    gpu = {"gpu": torch.cuda.get_device_name(device)} if torch.device(device).type == "cuda" else {}
    return machine | installed() | gpu


def describe_model(name: str, model: PreTrainedModel) -> dict[str, str | int]:
    """What was measured."""
    return {"path": name, "type": model.config.model_type, "parameters": model.num_parameters()}


def has_matplotlib() -> bool:
    """Whether plots can be made."""
    return find_spec("matplotlib") is not None


def claim_folder(out: Path, json_name: str) -> None:
    """Make the folder; ValueError if that is impossible, if it holds a report, or if the plot cannot be made."""
    if not has_matplotlib():
        raise ValueError("out: the plot needs matplotlib, which is not installed (pip install 'treepo[bench]')")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if (out / json_name).exists():
            raise ValueError(f"out: {str(out)!r} already holds {json_name}; give another folder")
    except OSError as error:
        raise ValueError(f"out: cannot write to {str(out)[:100]!r}: {error.strerror}") from error


def write_json(report: object, path: Path) -> None:
    """Keep a report, which is a dataclass."""
    path.write_bytes(TypeAdapter(type(report)).dump_json(report, indent=1) + b"\n")
