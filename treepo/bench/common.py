"""What all benchmarks share: models of random weights, interleaved timing, peak memory, descriptions and tables."""

import dataclasses
import gc
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
import transformers
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from treepo.bench.settings import ArchitectureSettings, PromptSettings
from treepo.data.problem import Problem
from treepo.engine.vllm.start import installed
from treepo.errors import SettingError
from treepo.model.policy import Policy, load_policy
from treepo.model.settings import ModelSettings
from treepo.tasks.base_model import BaseModelSettings, initial_model
from treepo.tasks.chain_sums import make_chain_tokenizer
from treepo.utils import ProgressCallback
from treepo.utils.io import prepare_output_dir
from treepo.utils.numeric import derive_seed

FIRST_WORD = 3
"""Smaller ids of the built-in tokenizer are special tokens."""


def load_or_make(settings: ModelSettings, architecture: ArchitectureSettings, max_len: int, seed: int) -> Policy:
    """The model that is named, or one of random weights for sequences of up to `max_len` tokens."""
    if settings.path:
        return load_policy(
            settings.path, dtype=settings.dtype, device=settings.device, trust_remote_code=settings.trust_remote_code
        )
    with TemporaryDirectory() as folder:
        save_random_model(Path(folder), architecture, max_len, seed)
        return load_policy(folder, dtype=settings.dtype, device=settings.device)


def save_random_model(folder: Path, architecture: ArchitectureSettings, max_len: int, seed: int) -> None:
    """Write random weights and the built-in task's tokenizer in the format of a downloaded model."""
    tokenizer = make_chain_tokenizer()
    settings = BaseModelSettings(max_positions=max_len, **dataclasses.asdict(architecture))
    initial_model(seed, tokenizer, settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def random_ids(rng: np.random.Generator, vocab_size: int, count: int) -> np.ndarray:
    """int64 [count]: random tokens."""
    return rng.integers(min(FIRST_WORD, vocab_size - 1), vocab_size, count)


def random_problems(settings: PromptSettings, vocab_size: int, seed: int) -> list[Problem]:
    """Prompts of random tokens and lengths."""
    rng = np.random.default_rng(derive_seed(seed, "prompts"))
    lengths = rng.integers(settings.min_len, settings.max_len + 1, settings.count)
    prompts = [tuple(random_ids(rng, vocab_size, n).tolist()) for n in lengths]
    return [Problem(f"prompt {i}", "", ids, "") for i, ids in enumerate(prompts)]


class Variant(Protocol):
    """One way of doing the same work; only `run` is timed."""

    def prepare(self) -> None:
        """Forget what earlier runs computed."""
        ...

    def run(self) -> None:
        """Do the work; it is complete on return."""
        ...


def time_interleaved(variants: Sequence[Variant], repeats: int, progress: ProgressCallback) -> list[tuple[float, ...]]:
    """The seconds of each variant in each round: one warm-up round, then `repeats` rounds in which each runs once."""
    seconds: list[list[float]] = [[] for _ in variants]
    num_runs = (repeats + 1) * len(variants)
    for run in range(num_runs):
        index = run % len(variants)
        variants[index].prepare()
        gc.collect()
        start = perf_counter()
        variants[index].run()
        elapsed = perf_counter() - start
        if run >= len(variants):
            seconds[index].append(elapsed)
        progress(run + 1, num_runs, elapsed)
    return [tuple(s) for s in seconds]


def median_ratio(seconds: Sequence[float], others: Sequence[float]) -> float:
    """The median over rounds of seconds / others."""
    return median(own / other for own, other in zip(seconds, others, strict=True))


def peak_bytes(work: Callable[[], None], device: torch.device) -> int:
    """Most bytes of tensors alive at a time during `work`, beyond those alive before.

    On the CPU every allocation and release by torch is counted, but not what other libraries allocate themselves.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    # The profiler reads this on its first use and would otherwise print two lines.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
    events: list[Any] = profiled.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    changes.sort(key=lambda change: change[0])
    return max(accumulate((num_bytes for _, num_bytes in changes), initial=0))


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
    """Path, type and size of a model."""
    return {"path": name, "type": model.config.model_type, "parameters": model.num_parameters()}


def has_matplotlib() -> bool:
    """Whether plots can be made."""
    return find_spec("matplotlib") is not None


def prepare_results(out: Path, name: str) -> None:
    """Make the folder; SettingError if that fails, if it holds the file `name`, or if plots cannot be made."""
    if not has_matplotlib():
        raise SettingError("out", "the plot needs matplotlib, which is not installed (pip install 'treepo[bench]')")
    prepare_output_dir(out, result=name)


def make_table(title: str, caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of 80 columns; the first cell of each row is its name."""
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False, padding=0, min_width=80)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
