"""Memory that runs out while an engine decodes: fewer requests run at a time, and each gets its own tokens."""

import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from tests.engine.engines import embedded, plain, request, run_all, tokens_of
from tests.models import make_tiny_model
from treepo.engine.base import Engine, SampleRequest
from treepo.engine.torch import engine as engine_module
from treepo.engine.torch.batch import BatchBuilder
from treepo.engine.torch.engine import TorchEngine
from treepo.engine.torch.kv_cache import KVCache

CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to ..."
ERRORS = [torch.OutOfMemoryError("CUDA out of memory. Tried ..."), RuntimeError(CPU_MESSAGE), MemoryError()]


def requests() -> list[SampleRequest]:
    """Trees in the making: several requests for each of some prompts of unequal length."""
    rng = np.random.default_rng(3)
    prompts = [rng.integers(3, 16, size=n) for n in (4, 9, 9, 20)]
    return [request(prompts[i % 4], 6 + i, seed=i) for i in range(16)]


def cramp(engine: Engine, room: int, error: Exception) -> list[int]:
    """Let memory run out for more than `room` rows at a time; returns the numbers of rows that are tried."""
    tried: list[int] = []
    name = "forward" if isinstance(engine, TorchEngine) else "generate"
    original = getattr(engine, name)

    def forward(*args, **kwargs):
        tried.append(len(args[-1]) if name == "forward" else len(args[0]))
        # The embedded engine pads small forwards.
        if tried[-1] > max(room, 16 if name == "forward" else 0):
            raise error
        return original(*args, **kwargs)

    setattr(engine, name, forward)
    return tried


@pytest.mark.parametrize("make_engine", [embedded, plain])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_half_as_many_get_the_same_tokens(
    make_engine: Callable[..., Engine], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """It ended the run in a traceback. Later requests run no more of them at a time than fitted."""
    wanted = [r for i in range(3) for r in requests()]
    expected = tokens_of(run_all(make_engine(make_tiny_model()), wanted))
    engine = make_engine(make_tiny_model())
    tried = cramp(engine, 3 if make_engine is plain else 20, error)
    assert tokens_of(run_all(engine, wanted)) == expected
    num_failed = len(tried)
    assert caplog.messages[-1].startswith("out of memory while decoding: from now on engine.max_num_seqs is ")
    assert tokens_of(run_all(engine, wanted)) == expected
    assert max(tried[num_failed:]) <= 20, "what was learnt holds"


def test_a_single_request_that_does_not_fit_is_an_error_in_one_line() -> None:
    """After it the engine is empty, and what it held is free for a checkpoint."""

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nGPU 0 has ...")

    for make_engine, name in ((embedded, "forward"), (plain, "generate")):
        engine = make_engine(make_tiny_model())
        original = getattr(engine, name)
        setattr(engine, name, fail)
        with pytest.raises(
            MemoryError, match=r"^engine.max_num_seqs: out of memory with a single .*CUDA out of memory"
        ):
            run_all(engine, requests())
        setattr(engine, name, original)
        engine.close()
        assert not engine.cache_bytes
        assert len(run_all(engine, requests()[:3])) == 3


PLACES: Sequence[tuple[object, str]] = [
    (KVCache, "reserve"),
    (KVCache, "layer"),
    (BatchBuilder, "build"),
    (TorchEngine, "_enter"),
    (engine_module, "sample_tokens"),
]


@pytest.mark.parametrize("is_before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[1])
def test_no_request_is_lost_or_decoded_twice_wherever_it_happens(
    place: tuple[object, str], is_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a step, in any of its parts, twice."""
    expected = tokens_of(run_all(TorchEngine(make_tiny_model(), max_num_seqs=12, eos_ids=[2]), requests()))
    original, calls = getattr(*place), []

    def fail_now_and_then(*args, **kwargs):
        calls.append(args)
        result = None if is_before else original(*args, **kwargs)
        if len(calls) in {2, 15}:
            raise MemoryError
        return original(*args, **kwargs) if is_before else result

    monkeypatch.setattr(*place, fail_now_and_then)
    engine = TorchEngine(make_tiny_model(), max_num_seqs=12, eos_ids=[2])
    assert tokens_of(run_all(engine, requests())) == expected
    assert len(calls) > 15 and engine.max_num_seqs < 12


REAL = """
import resource, sys
import numpy as np, torch
from tests.engine.engines import request, run_all, tokens_of
from tests.models import make_tiny_model
from treepo.engine.torch.engine import TorchEngine
torch.set_num_threads(1)
model = make_tiny_model(hidden_size=256, num_hidden_layers=2)
wanted = [request(np.random.default_rng(i).integers(3, 16, size=300), 8, seed=i) for i in range(24)]
engine = TorchEngine(model, [], max_cache_tokens=200_000, max_num_batched_tokens=9000)
run_all(engine, wanted[:1])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, -1))
found = tokens_of(run_all(engine, wanted))
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
assert found == tokens_of(run_all(TorchEngine(model, [], max_cache_tokens=200_000), wanted))
print(engine.max_num_seqs)
"""


def test_memory_that_really_runs_out() -> None:
    """Of a process that may not have as much as 24 long sequences need."""
    room = 40 << 20
    program = REAL.replace("ROOM", str(room))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 1 <= int(done.stdout) < 24
