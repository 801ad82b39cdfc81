"""Settings of the policy; importing them loads no torch."""

from dataclasses import dataclass
from typing import Literal

from treepo.errors import SettingError

MAX_RANK = 10_000
"""Larger than the full rank of any map that adapters are worth it for."""


@dataclass(frozen=True)
class ModelSettings:
    """The model that is trained."""

    path: str = ""
    """Hugging Face model folder or name; empty for the built-in task's base model."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights. To train in bfloat16, keep them in float32 and set train.autocast: small steps are lost in
    narrower weights. float16 is for evaluating and sampling alone."""

    device: str = "auto"
    """Device of the model: cpu, cuda, cuda:1; auto takes a GPU if there is one, else the CPU."""

    trust_remote_code: bool = False
    """Run Python code that comes with the model."""


@dataclass(frozen=True)
class LoraSettings:
    """Train low-rank adapters instead of all weights. Source: LoRA, arXiv 2106.09685."""

    rank: int = 0
    """Rank of the adapters; 0 trains all weights."""

    alpha: float = 32.0
    """An adapter's output is scaled by alpha / rank."""

    targets: tuple[str, ...] = ()
    """Names of the linear maps that get an adapter, such as q_proj; all but the output embeddings if none is given."""

    merge: bool = True
    """Save, besides adapter/, a model/ with the adapters added to its weights."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank <= MAX_RANK:
            raise SettingError("rank", f"must be within 0..{MAX_RANK}", self.rank)
        if not self.alpha > 0:
            raise SettingError("alpha", "must be positive", self.alpha)
