"""Engines and the weights of a model that may be sharded over processes."""

from contextlib import AbstractContextManager, nullcontext

from transformers import PreTrainedModel

from treepo.distributed import SINGLE_PROCESS, DistContext
from treepo.engine.base import Engine
from treepo.model.fsdp import unsharded


def serving(engine: Engine, model: PreTrainedModel) -> AbstractContextManager[None]:
    """Hold all weights on every process while engines decode, unless they have copies of their own."""
    return unsharded(model) if engine.reads_model else nullcontext()


def give_weights(engine: Engine, model: PreTrainedModel, processes: DistContext = SINGLE_PROCESS) -> None:
    """Give a model's weights to the engines of all processes: at once, or, where they share servers, to the first one's
    and then to those that follow it."""
    leads = processes.is_first or not engine.is_shared
    with serving(engine, model):
        with processes.synced_errors():
            (engine.update_weights if leads else engine.join_update)(model)
        with processes.synced_errors():
            if not leads:
                engine.update_weights(model)
