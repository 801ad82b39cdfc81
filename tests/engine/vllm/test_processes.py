"""Two processes, each with a vLLM of its own, a stand-in, over a model that they share."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from tests.engine.engines import assert_scored, embedded, make_model, request, run_all, tokens_of
from tests.engine.vllm import stand_in
from tests.processes import run_in
from treepo.distributed import DistContext
from treepo.engine.base import SampleRequest
from treepo.engine.settings import EngineSettings, ServerSettings, VllmSettings
from treepo.engine.vllm import start as start_module
from treepo.engine.vllm.engine import VllmEngine
from treepo.engine.weights import give_weights
from treepo.errors import PeerError, SettingError
from treepo.model.adapters import add_adapter
from treepo.model.fsdp import shard
from treepo.model.lora import merged
from treepo.model.policy import Policy
from treepo.model.settings import LoraSettings
from treepo.run.engine import build_engine


def own_requests(rank: int) -> list[SampleRequest]:
    """The second process has more of them."""
    prompts = [np.random.default_rng(i).integers(3, 16, size=10) for i in range(3 + 2 * rank)]
    return [request(prompt, 3 + i, seed=10 * rank + i) for i, prompt in enumerate(prompts)]


def start(model: Any, processes: DistContext, **settings: Any) -> VllmEngine:
    engine = build_engine(
        Policy(model, None),  # type: ignore[arg-type]
        EngineSettings(kind="vllm", max_num_seqs=8, max_cache_tokens=256),
        vllm=VllmSettings(**settings),
        servers=ServerSettings(),
        max_model_len=64,
        eos_ids=(),
        processes=processes,
    )
    assert isinstance(engine, VllmEngine)
    return engine


def divided(seed: int) -> Any:
    model = make_model(seed=seed)
    shard(model, init_device_mesh("cpu", (2,)))
    return model


def serve(processes: DistContext, folder: Path) -> None:
    """What each decodes by itself, before and after an update of both."""
    stand_in.install()
    model = divided(3)
    with closing(start(model, processes)) as engine:
        requests = own_requests(processes.rank)
        drawn = tokens_of(run_all(engine, requests))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.25)
        give_weights(engine, model, processes)
        results = run_all(engine, requests)
        reference = make_model(seed=3, attention="sdpa")
        with torch.no_grad():
            for parameter in reference.parameters():
                parameter.mul_(1.25)
        for r, result in zip(requests, results, strict=True):
            assert_scored(reference, r.prefix_ids, result)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        fail(engine, model, processes)
        serve_adapters(processes)
    # Those of the trainer outlive it.
    assert processes.all_gather(processes.rank) == [0, 1]
    (folder / f"{processes.rank}.json").write_text(json.dumps(drawn))
    fail_at_the_start(processes)


def serve_adapters(processes: DistContext) -> None:
    """Adapters that are divided, too: each process's vLLM gets the sum of weights and adapters."""

    def adapted() -> Any:
        model = make_model(seed=3)
        add_adapter(model, LoraSettings(rank=2), seed=0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(len(name)))
        return model

    model, reference = adapted(), merged(adapted())
    shard(model, init_device_mesh("cpu", (2,)))
    reference.set_attn_implementation("sdpa")
    (own, *_) = own_requests(processes.rank)
    engine = start(model, processes)
    (result,) = run_all(engine, [own])
    assert_scored(reference, own.prefix_ids, result)
    engine.close()


def fail(engine: VllmEngine, model: Any, processes: DistContext) -> None:
    """Whatever the second process's vLLM cannot do, both learn of it, none waits for the other's shards, and both can
    go on; asleep and awake."""
    assert (engine.core.rank, engine.core.local_rank) == (processes.rank, 0)
    expected, engine.can_sleep = tokens_of(run_all(engine, own_requests(0))), True
    for name in ("wake_up", "weights"):
        engine.sleep()
        if not processes.is_first:
            engine.core.fails = frozenset({name})
        said = rf"vllm.gpu_memory_utilization: out of memory beside the trainer; .* \(no memory: {name}\)"
        with pytest.raises(PeerError if processes.is_first else MemoryError, match=said):
            give_weights(engine, model, processes)
        engine.core.fails = frozenset()
        engine.sleep()
        give_weights(engine, model, processes)
        assert tokens_of(run_all(engine, own_requests(0))) == expected
    narrow = start(model, processes, dtype="bfloat16")
    assert narrow.core.model.dtype == torch.bfloat16
    narrow.close()


def fail_at_the_start(processes: DistContext) -> None:
    """A vLLM that is missing in the second process, or has too little memory there: one line in both."""
    model, kind = divided(3), PeerError if processes.is_first else SettingError
    if not processes.is_first:
        stand_in.Core.fails = frozenset({"start"})
    with pytest.raises(kind, match=r"engine.kind: vLLM cannot serve 'qwen2': no memory: start \("):
        start(model, processes)
    # What one left would be missing in the other.
    stand_in.Core.fails = frozenset()
    start(model, processes).close()
    if not processes.is_first:
        start_module._version = {}.get  # type: ignore[assignment]
    with pytest.raises(kind, match="engine.kind: vLLM is not installed"):
        start(model, processes)
    assert processes.all_gather(processes.rank) == [0, 1]


def test_each_process_has_a_vllm_of_its_own(tmp_path: Path) -> None:
    """It decodes what the embedded engine of one process does, before and after an update. vLLM was for one process."""
    run_in(2, serve, tmp_path)
    model = make_model(seed=3)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == tokens_of(
            run_all(embedded(model), own_requests(rank))
        )
