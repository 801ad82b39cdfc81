"""What all benchmarks share: models of random weights, random prompts, interleaved timing, peak memory, the report."""

import dataclasses
import gc
import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import transformers
from torch.profiler import ProfilerActivity, profile

from treepo.bench.settings import ArchitectureSettings, PromptSettings
from treepo.data.problem import Problem
from treepo.engine.vllm.start import installed
from treepo.errors import SettingError
from treepo.model.policy import Policy, load_policy
from treepo.model.settings import ModelSettings
from treepo.report.bench_results import BenchReport
from treepo.tasks.base_model import initial_model
from treepo.tasks.chain_sums import make_chain_tokenizer
from treepo.tasks.settings import BaseModelSettings
from treepo.utils import ProgressCallback
from treepo.utils.numeric import derive_seed

C = TypeVar("C")
W = TypeVar("W")

FIRST_WORD = 3
"""Smaller ids of the built-in tokenizer are special tokens."""


def load_or_make(settings: ModelSettings, architecture: ArchitectureSettings, max_len: int, seed: int) -> Policy:
    """The model that is named, or one of random weights for sequences of up to `max_len` tokens."""
    if settings.path:
        return load_policy(**dataclasses.asdict(settings))
    tokenizer = make_chain_tokenizer()
    made = BaseModelSettings(max_positions=max_len, **dataclasses.asdict(architecture))
    with TemporaryDirectory() as folder:
        initial_model(seed, tokenizer, made).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return load_policy(folder, dtype=settings.dtype, device=settings.device)


def check_length(policy: Policy, num_tokens: int, section: str) -> None:
    """Raises SettingError if the model has no positions for so many tokens. section: that of the wrong settings."""
    if policy.max_len is not None and num_tokens > policy.max_len:
        reason = f"trajectories of {num_tokens} tokens exceed the model's {policy.max_len} positions"
        raise SettingError(section, reason)


def random_ids(rng: np.random.Generator, vocab_size: int, count: int) -> np.ndarray:
    """int64 [count]: random tokens."""
    return rng.integers(min(FIRST_WORD, vocab_size - 1), vocab_size, count)


def random_problems(settings: PromptSettings, vocab_size: int, seed: int) -> list[Problem]:
    """Prompts of random tokens and lengths."""
    rng = np.random.default_rng(derive_seed(seed, "prompts"))
    lengths = rng.integers(settings.min_len, settings.max_len + 1, settings.count)
    prompts = [tuple(random_ids(rng, vocab_size, length).tolist()) for length in lengths]
    return [Problem(f"prompt {i}", "", ids, "") for i, ids in enumerate(prompts)]


class Variant(ABC):
    """One way of doing the same work; only `run` is timed."""

    name: str

    @abstractmethod
    def prepare(self) -> None:
        """Forget what earlier runs computed."""

    @abstractmethod
    def run(self) -> None:
        """Do the work; it is complete on return."""


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


def wait(device: torch.device) -> None:
    """Wait until all work on a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(work: Callable[[], None], device: torch.device) -> int:
    """Most bytes of tensors alive at a time during `work`, beyond those alive before.

    On the CPU every allocation and release by torch is counted, but not what other libraries allocate themselves.
    """
    if device.type == "cuda":
        wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    # The profiler reads this on its first use and would otherwise print two lines.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    # acc_events: there is one cycle; torch 2.11 warns that it would not remember others.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiled:
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


@dataclass(frozen=True, eq=False)
class Bench(ABC, Generic[C, W]):
    """The parts of one benchmark of cases C, which give workloads W. unnamed: describes a model that has no name."""

    config: Any
    policy: Policy
    unnamed: str

    @abstractmethod
    def cases(self) -> Sequence[C]:
        """What is measured, one workload each."""

    @abstractmethod
    def measure(self, case: C, progress: ProgressCallback) -> W:
        """Measure one case."""

    def run(self, cases: Sequence[C], command: str, progress: ProgressCallback) -> BenchReport[W]:
        """Measure one case after another. command: as it was typed, for the report."""
        model, settings = self.policy.model, self.config.model
        return BenchReport(
            command=command,
            machine=describe_machine(str(model.device)),
            model={
                "path": settings.path or self.unnamed,
                "type": model.config.model_type,
                "parameters": model.num_parameters(),
            },
            settings=dataclasses.asdict(self.config),
            workloads=tuple(self.measure(case, progress) for case in cases),
        )

    def close(self) -> None:
        """Close what was opened for the measurement."""
