"""Weights over NCCL: what the trainer tells its servers, and when. The transfer itself needs GPUs."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.engine.engines import make_model, needs_vllm, run_all
from tests.engine.server.conftest import Connect, MakeStubs
from tests.engine.server.stub import StubServer
from tests.engine.server.test_servers import some_requests
from treepo.engine.server.weight_sync import Control, NcclSync, TransferSource
from treepo.errors import EngineError
from treepo.model.exported import ExportedWeights, exported_weights

OPEN = ["/shutdown_weight_transfer_engine", "/init_weight_transfer_engine"]
SEND = ["/start_weight_update", "/update_weights", "/finish_weight_update"]
SETTLE = ["/reset_prefix_cache", "/update_weight_version"]


class Transfer:
    """What vLLM's side of the trainer does, without the broadcast."""

    def __init__(self, control: Control, source: TransferSource) -> None:
        self.control, self.source = control, source
        self.num_shutdowns = 0
        self.sent: list[PreTrainedModel] = []
        info = {"master_address": "host", "master_port": 29600, "rank_offset": 1, "world_size": 1 + sum(control.sizes)}
        control.init_weight_transfer_engine(info)

    def send_weights(self) -> None:
        self.control.start_weight_update()
        self.control.update_weights({"names": [name for name, _ in self.source]})
        self.control.finish_weight_update()
        self.sent.append(self.source.weights.model)

    def shutdown(self) -> None:
        self.num_shutdowns += 1


@pytest.fixture
def transfers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Transfer]]:
    """All transfers that were opened."""
    opened: list[Transfer] = []

    def open_transfer(self: NcclSync, control: Control, weights: ExportedWeights) -> Transfer:
        opened.append(Transfer(control, TransferSource(weights)))
        return opened[-1]

    monkeypatch.setattr(NcclSync, "_open", open_transfer)
    return opened


def weight_calls(stub: StubServer) -> list[str]:
    """What it was asked to do since last looked at, without questions."""
    paths = [path for path in stub.paths() if path in {*OPEN, *SEND, *SETTLE}]
    stub.calls.clear()
    return paths


def test_ranks_of_several_servers_of_several_workers(
    make_stubs: MakeStubs, connect: Connect, transfers: list[Transfer]
) -> None:
    """The trainer is rank 0, and each server's workers come behind those of the servers before it."""
    stubs = make_stubs(3)
    for stub, size in zip(stubs, (2, 4, 1), strict=True):
        stub.num_workers = size
    connect(stubs, sync=NcclSync("host:29600")).update_weights(make_model())
    infos = [stub.bodies("/init_weight_transfer_engine")[0]["init_info"] for stub in stubs]
    assert [info["rank_offset"] for info in infos] == [1, 3, 7]
    assert {info["world_size"] for info in infos} == {8}


def test_the_group_is_made_once_and_weights_are_sent_every_time(
    make_stubs: MakeStubs, connect: Connect, transfers: list[Transfer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order, caches dropped last; each time the model that is given. vLLM takes the current GPU of the thread
    that calls it, which in a new thread is the first one."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: current.append(device) or nullcontext())
    stubs, gpu = make_stubs(2), torch.device("cuda:1")
    engine = connect(stubs, sync=NcclSync("host:29600", gpu))
    models = [make_model(seed=i) for i in range(3)]
    engine.update_weights(models[0])
    assert [weight_calls(stub) for stub in stubs] == 2 * [[*OPEN, *SEND, *SETTLE]]
    for model in models[1:]:
        engine.update_weights(model)
        assert [weight_calls(stub) for stub in stubs] == 2 * [[*SEND, *SETTLE]]
    [transfer] = transfers
    assert transfer.sent == models and current == [gpu] * (1 + len(models))
    run_all(engine, some_requests(4))


def test_the_group_is_made_anew_when_members_change(
    make_stubs: MakeStubs, connect: Connect, transfers: list[Transfer]
) -> None:
    """One that died leaves it, one that came back joins it, and one that was started again has to join once more."""
    stubs = make_stubs(2)
    engine = connect(stubs, sync=NcclSync("host:29600"))
    engine.update_weights(make_model())
    stubs[0].die()
    engine.update_weights(make_model())
    assert [len(transfer.control.servers) for transfer in transfers] == [2, 1]
    stubs[0].start()
    engine.update_weights(make_model())
    assert [len(transfer.control.servers) for transfer in transfers] == [2, 1, 2]
    stubs[1].die()
    stubs[1].start()
    for stub in stubs:
        stub.calls.clear()
    engine.update_weights(make_model())
    assert [weight_calls(stub) for stub in stubs] == 2 * [[*OPEN, *SEND, *SETTLE]]
    assert [transfer.num_shutdowns for transfer in transfers] == [1, 1, 1, 0]
    assert len(engine.fleet.alive) == 2


def test_closing_the_engine_ends_the_transfer(
    make_stubs: MakeStubs, connect: Connect, transfers: list[Transfer]
) -> None:
    """It holds a process group; engines that never sent weights hold none."""
    connect(make_stubs(1), sync=NcclSync("host:29600")).close()
    engine = connect(make_stubs(1), sync=NcclSync("host:29600"))
    engine.update_weights(make_model())
    engine.close()
    assert [transfer.num_shutdowns for transfer in transfers] == [1]


def test_a_transfer_that_fails_is_an_error_and_the_next_begins_anew(
    make_stubs: MakeStubs, connect: Connect, transfers: list[Transfer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What servers have then is not known."""
    stubs = make_stubs(2)
    engine = connect(stubs, sync=NcclSync("host:29600"))
    stubs[1].broken.add("/update_weights")
    with pytest.raises(EngineError, match="^servers.urls: the new weights could not be sent: .*/update_weights"):
        engine.update_weights(make_model())
    assert not engine.fleet.alive
    stubs[1].broken.clear()
    engine.update_weights(make_model())
    assert len(transfers) == 2
    monkeypatch.setattr(transfers[1], "send_weights", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.update_weights(make_model())
    engine.update_weights(make_model())

    def fail() -> None:
        raise RuntimeError("NCCL error:\n unhandled")

    monkeypatch.setattr(transfers[2], "send_weights", fail)
    with pytest.raises(EngineError, match="^servers.urls: .* sent: the transfer over NCCL failed: NCCL error"):
        engine.update_weights(make_model())
    engine.update_weights(make_model())
    assert len(transfers) == 4
    assert len(engine.fleet.alive) == 2


def test_none_that_answers_is_an_error(make_stubs: MakeStubs, connect: Connect, transfers: list[Transfer]) -> None:
    """No group is made of nobody."""
    [stub] = make_stubs()
    engine = connect([stub], sync=NcclSync("host:29600"))
    stub.die()
    with pytest.raises(EngineError, match="^servers.urls: no server took the new weights: "):
        engine.update_weights(make_model())
    assert not transfers


class Communicator:
    """Stands for NCCL's: notes what is broadcast."""

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any) -> None:
        self.tensors.append(tensor.clone())

    def destroy(self) -> None:
        pass


@needs_vllm
def test_vllms_own_trainer_takes_our_control_and_source(
    make_stubs: MakeStubs, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its handshake reaches all servers, and what it broadcasts is what it announced, in that order."""
    from vllm.distributed.weight_transfer import nccl_engine
    from vllm.distributed.weight_transfer.base import VLLMWeightSyncClient

    communicators: list[Communicator] = []

    def endpoint(info: Any) -> Communicator:
        communicators.append(Communicator())
        return communicators[-1]

    def broadcast(iterator: Any, group: Communicator, src: int, post_iter_func: Any, **sizes: Any) -> None:
        for item in iterator:
            group.broadcast(post_iter_func(item), src, None)

    monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", endpoint)
    monkeypatch.setattr(nccl_engine, "packed_nccl_broadcast_producer", broadcast)
    monkeypatch.setattr(nccl_engine.NCCLTrainerWeightTransferEngine, "_post_send_sync", lambda self: None)
    stubs = make_stubs(2)
    stubs[0].num_workers = 2
    engine = connect(stubs, sync=NcclSync("10.0.0.1:29600"))
    assert isinstance(Control([], [], engine.loop), VLLMWeightSyncClient)
    for seed in (1, 2):
        model = make_model(seed=seed)
        for stub in stubs:
            stub.calls.clear()
        engine.update_weights(model)
        weights = dict(exported_weights(model))
        for stub in stubs:
            [body] = stub.bodies("/update_weights")
            info = body["update_info"]
            assert info["names"] == list(weights)
            assert info["shapes"] == [list(tensor.shape) for tensor in weights.values()]
            assert set(info["dtype_names"]) == {"float32"}
            if seed == 1:
                [first] = stub.bodies("/init_weight_transfer_engine")
                assert (first["init_info"]["world_size"], first["init_info"]["master_port"]) == (4, 29600)
            assert weight_calls(stub) == [*(OPEN if seed == 1 else []), *SEND, *SETTLE]
        sent = communicators[0].tensors[-len(weights) :]
        assert all(torch.equal(a, b) for a, b in zip(sent, weights.values(), strict=True))
    assert len(communicators) == 1
