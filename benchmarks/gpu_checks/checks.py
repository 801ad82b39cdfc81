"""What the sections share: checks, times, and models of random weights."""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from treepo.engine.torch.engine import TorchEngine
from treepo.model.attention import ATTENTION_NAME, register_attention

SHAPES: dict[str, dict[str, Any]] = {
    "1.5B": {
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
    "7B": {
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
}
"""Qwen2.5's, from its published configurations."""

TINY_SHAPE = {
    "vocab_size": 3000,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}

PEAK_FLOPS = 989e12
"""Of an H100 or H200 in bfloat16, dense, from the data sheet."""


@dataclass
class Checks:
    """What was found so far. device: where it runs. seconds: how long all may take."""

    device: torch.device
    seconds: float
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    start: float = field(default_factory=time.monotonic)

    @property
    def is_tiny(self) -> bool:
        """Without a GPU: sizes are tiny and no speed is judged."""
        return self.device.type == "cpu"

    def add(self, name: str, value: object, wanted: str, passed: bool) -> None:
        """Keep a check and show it."""
        self.found[name] = {"value": value, "wanted": wanted, "passed": bool(passed)}
        print(f"{'PASS' if passed else 'FAIL'} {name}: {value} ({wanted})", flush=True)

    def add_speed(self, name: str, value: object, wanted: str, passed: bool) -> None:
        """A figure that is judged on a GPU alone."""
        if self.is_tiny:
            self.skip(name, f"no GPU here; {value} on this CPU")
        else:
            self.add(name, value, wanted, passed)

    def skip(self, name: str, reason: str) -> None:
        """Say what is not checked."""
        self.skipped[name] = reason
        print(f"SKIP {name}: {reason}", flush=True)

    def run(self, name: str, seconds: float, section: "Callable[[Checks], None]") -> None:
        """Run a section that takes about so many seconds, if they are left; its errors are a check that failed."""
        begin = time.monotonic()
        if begin - self.start + seconds > self.seconds:
            self.skip(name, f"less than {seconds:.0f} s are left")
            return
        print(f"-- {name}", flush=True)
        try:
            section(self)
        except Exception as error:  # noqa: BLE001 - the other sections are still to run
            traceback.print_exc()
            self.add(f"{name}/runs", f"{type(error).__name__}: {str(error)[:300]}", "no error", passed=False)
        torch.cuda.empty_cache()
        print(f"   {time.monotonic() - begin:.0f} s", flush=True)

    def timed(self, work: Callable[[], object], repeats: int = 10, warmups: int = 3) -> float:
        """Median of seconds, once all that is asked of the device is done."""
        times = []
        for index in range(warmups + repeats if not self.is_tiny else 2):
            self.synchronize()
            begin = time.perf_counter()
            work()
            self.synchronize()
            if index >= warmups or self.is_tiny:
                times.append(time.perf_counter() - begin)
        return median(times)

    def synchronize(self) -> None:
        """Wait for the device."""
        if not self.is_tiny:
            torch.cuda.synchronize()

    @cached_property
    def copy_bandwidth(self) -> float:
        """Bytes read and written per second by a copy."""
        source = torch.empty(1 << (20 if self.is_tiny else 30), dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        found = 2 * source.numel() / self.timed(lambda: target.copy_(source))
        self.add_speed("copy/TB_per_s", round(found / 1e12, 2), "shown", passed=True)
        return found

    def allocated(self, *, peak: bool = False) -> int:
        """Bytes of the GPU's tensors now, or the most at a time since `memory_limit` began; 0 on the CPU."""
        if self.is_tiny:
            return 0
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()

    @contextmanager
    def memory_limit(self, limit: int, engine: TorchEngine, max_tokens: int) -> Iterator[None]:
        """Let the GPU have no more bytes; on the CPU, let an engine's forwards of more tokens fail."""
        if self.is_tiny:
            forward: Any = engine.forward

            def limited(ids: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
                if len(ids) > max(max_tokens, 16):
                    raise torch.OutOfMemoryError("no memory left, says this script")
                return forward(ids, *args, **options)

            engine.forward = limited  # pyright: ignore[reportAttributeAccessIssue]
            yield
            engine.forward = forward
            return
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.mem_get_info()[1])
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    def model(self, dtype: torch.dtype = torch.bfloat16, **sizes: int) -> PreTrainedModel:
        """Random weights."""
        register_attention()
        shape: dict[str, Any] = (TINY_SHAPE if self.is_tiny else SHAPES["1.5B"]) | sizes
        config = Qwen2Config(**shape, tie_word_embeddings=True)
        torch.manual_seed(0)
        with self.device:
            return Qwen2ForCausalLM._from_config(config, dtype=dtype, attn_implementation=ATTENTION_NAME).eval()
