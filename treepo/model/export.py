"""A model's weights as its checkpoint names them, for engines that keep a copy of their own."""

from collections.abc import Iterator

from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from treepo.model.lora import has_adapter, merged_weights
from treepo.model.sharding import plain_weights


def exported_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of every weight, with adapters added to what they adapt.

    transformers may keep weights in another layout than the checkpoint's (experts side by side in one tensor); what is
    yielded is in the checkpoint's.
    """
    weights = dict(merged_weights(model)) if has_adapter(model) else plain_weights(model)
    yield from revert_weight_conversion(model, weights).items()
