"""The frozen policy that training is held near to."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedModel


class Reference(Protocol):
    """Lends the reference model while a with-block lasts."""

    def __call__(self) -> AbstractContextManager[PreTrainedModel]: ...


@dataclass(frozen=True)
class FrozenCopy:
    """A second model, kept beside the policy."""

    model: PreTrainedModel

    @classmethod
    def of(cls, model: PreTrainedModel) -> "FrozenCopy":
        """A copy of the model as it is now."""
        copy = deepcopy(model)
        copy.requires_grad_(False)
        return cls(copy)

    @contextmanager
    def __call__(self) -> Iterator[PreTrainedModel]:
        yield self.model


@dataclass(frozen=True)
class AdapterOff:
    """The policy itself without its adapter: nothing is kept twice."""

    model: PreTrainedModel

    @contextmanager
    def __call__(self) -> Iterator[PreTrainedModel]:
        self.model.disable_adapters()
        try:
            yield self.model
        finally:
            self.model.enable_adapters()
