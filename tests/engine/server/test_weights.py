"""New weights for servers: who gets them, what they forget, and what becomes of those that do not take them."""

import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.engine.engines import make_model, request, run_all
from tests.engine.server.conftest import Connect, MakeStubs
from tests.engine.server.test_servers import PROMPT, assert_same, expected, some_requests, wait_until
from treepo.engine.server import fleet
from treepo.engine.server import weight_sync as sync
from treepo.engine.server.weight_sync import DiskSync
from treepo.errors import EngineError, WriteError
from treepo.model.adapters import add_adapter
from treepo.model.exported import exported_weights
from treepo.model.lora import merged
from treepo.model.settings import LoraSettings

UPDATE = ["/collective_rpc", "/reset_prefix_cache", "/update_weight_version"]


def test_all_servers_get_new_weights_and_drop_their_caches(make_stubs: MakeStubs, connect: Connect) -> None:
    """Three times: what is decoded is the new model's, nothing is cached, and versions are never the same."""
    stubs = make_stubs(2)
    engine = connect(stubs)
    versions = set()
    requests = some_requests(8, num_groups=4)
    for seed in (1, 2, 3):
        run_all(engine, requests)
        for stub in stubs:
            stub.calls.clear()
        model = make_model(seed=seed)
        engine.update_weights(model)
        assert [stub.paths() for stub in stubs] == [UPDATE, UPDATE]
        assert all(not stub.cached for stub in stubs)
        versions |= {stub.version for stub in stubs}
        assert_same(run_all(engine, requests), expected(model, requests))
    assert len(versions) == 3
    connect(stubs).update_weights(make_model())
    assert stubs[0].version not in versions


def test_updates_with_requests_under_way_are_refused(make_stubs: MakeStubs, connect: Connect) -> None:
    """Weights change only between requests."""
    [stub] = make_stubs()
    engine = connect([stub])
    engine.submit(request(PROMPT, 4))
    with pytest.raises(AssertionError, match="between requests"):
        engine.update_weights(make_model(seed=1))
    assert engine.step()
    engine.update_weights(make_model(seed=1))


def test_requests_that_were_released_may_still_be_ending(make_stubs: MakeStubs, connect: Connect) -> None:
    """A server cannot drop its cache until they have ended; the update waits for that."""
    [stub] = make_stubs()
    engine = connect([stub])
    stub.is_stuck = True
    for i in range(3):
        engine.submit(replace(request(PROMPT, 4, name=i), group=7))
    wait_until(lambda: stub.num_running == 3)
    engine.abort_group(7)
    engine.update_weights(make_model(seed=1))
    assert stub.num_aborted == 3


def test_a_server_that_keeps_its_cache_is_not_used(make_stubs: MakeStubs, connect: Connect) -> None:
    """Someone else's requests run there: it would mix weights."""
    stubs = make_stubs(2)
    engine = connect(stubs)
    stubs[0].num_running = 1
    model = make_model(seed=1)
    engine.update_weights(model)
    assert [server.url for server in engine.fleet.alive] == [stubs[1].url]
    assert_same(run_all(engine, some_requests(4)), expected(model, some_requests(4)))
    stubs[0].num_running = 0
    stubs[1].die()
    stubs[0].broken.add("/update_weight_version")
    with pytest.raises(EngineError, match="^servers.urls: no server took the new weights: .*/update_weight_version"):
        engine.update_weights(model)


def test_servers_that_do_not_answer_are_left_out_until_they_do(
    make_stubs: MakeStubs, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on alone; the next update reaches all that answer then. None is not enough."""
    monkeypatch.setattr(fleet, "WATCH_S", 0.01)
    stubs = make_stubs(3)
    engine = connect(stubs)
    stubs[0].die()
    stubs[1].broken.add("/collective_rpc")
    model = make_model(seed=1)
    engine.update_weights(model)
    stubs[0].start()
    stubs[1].broken.clear()
    for _ in range(3):
        assert_same(run_all(engine, some_requests(6, num_groups=3)), expected(model, some_requests(6)))
    assert [server.url for server in engine.fleet.alive] == [stubs[2].url]
    engine.update_weights(make_model(seed=2))
    assert len(engine.fleet.alive) == 3
    for stub in stubs:
        stub.die()
    with pytest.raises(EngineError, match="^servers.urls: no server took the new weights: .*onnect"):
        engine.update_weights(model)


def test_a_server_that_hangs_in_an_update_times_out(make_stubs: MakeStubs, connect: Connect) -> None:
    """The others go on."""
    stubs = make_stubs(2)
    engine = connect(stubs, timeout_s=0.5)
    stubs[0].hangs = True
    engine.update_weights(make_model(seed=1))
    assert [server.url for server in engine.fleet.alive] == [stubs[1].url]


def test_adapters_are_merged_on_the_way(make_stubs: MakeStubs, connect: Connect) -> None:
    """Servers get one model; the trainer's keeps its adapters."""
    pytest.importorskip("peft")
    model = make_model()
    add_adapter(model, LoraSettings(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.05)
    engine = connect(make_stubs(model=make_model()))
    engine.update_weights(model)
    requests = some_requests(6)
    results = run_all(engine, requests)
    assert_same(results, expected(merged(model), requests))
    with pytest.raises(AssertionError):
        assert_same(results, expected(make_model(), requests))
    assert any("lora_B" in name for name, _ in model.named_parameters())


def test_all_weights_are_written_whatever_is_tied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM went on with its own copy of the old output embeddings where a file without them was read."""
    model = make_model("qwen2")
    assert model.config.tie_word_embeddings
    for size, count in ((sync.FILE_BYTES, 1), (100_000, 5)):
        monkeypatch.setattr(sync, "FILE_BYTES", size)
        folder = tmp_path / str(size)
        folder.mkdir()
        sync.save_weights(exported_weights(model), folder)
        files = sorted(folder.iterdir())
        assert len(files) == count
        written = {name: tensor for file in files for name, tensor in load_file(file).items()}
        assert written.keys() == model.state_dict().keys()
        assert all(torch.equal(tensor, written[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("given", [False, True])
def test_no_folder_stays(
    make_stubs: MakeStubs, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    """The model lies on the disk while it is read, in a folder of its own, which others may read in a given one."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    [stub] = make_stubs()
    engine = connect([stub], sync=DiskSync(str(tmp_path / "shared" / "here") if given else ""))
    modes = []

    async def look(body: dict) -> dict:
        place = Path(body["kwargs"]["weights_path"])
        (weights,) = place.iterdir()
        modes.append((place.parent, place.stat().st_mode & 0o777, weights.stat().st_mode & 0o777))
        return {"results": [None]}

    stub._reload = look  # type: ignore[method-assign]
    for _ in range(2):
        engine.update_weights(make_model(seed=1))
    assert modes == 2 * [(tmp_path / "shared" / "here", 0o755, 0o644) if given else (tmp_path, 0o700, 0o600)]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_full_disk_is_said_in_one_line(
    make_stubs: MakeStubs, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors' own error is no OSError, and ended in a traceback."""
    engine = connect(make_stubs(), sync=DiskSync(str(tmp_path / "shared")))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(WriteError, match=r"shared' cannot be written \(File too large\); lost: the weights"):
            engine.update_weights(make_model(seed=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "shared").iterdir()) == []


def test_the_random_state_is_left_alone(make_stubs: MakeStubs, connect: Connect) -> None:
    """A trainer's draws do not depend on its servers."""
    engine = connect(make_stubs())
    torch.manual_seed(3)
    before = torch.get_rng_state()
    engine.update_weights(make_model(seed=1))
    run_all(engine, [request(np.array([3, 4]), 2)])
    assert torch.equal(before, torch.get_rng_state())
