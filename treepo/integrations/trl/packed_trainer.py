"""TRL's GRPOTrainer with packed forwards: what rows share is forwarded once."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false, reportAttributeAccessIssue=false

from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor
from transformers import PreTrainedModel
from trl import GRPOTrainer

from treepo.errors import SettingError
from treepo.integrations.trl.attention import attention, follow_trees
from treepo.integrations.trl.packing import ROW, PackedRows, regrouped
from treepo.model.attention import ATTENTION_NAME, register_attention
from treepo.model.compatibility import check_config, check_logits_match


class PackedGRPOTrainer(GRPOTrainer):
    """GRPOTrainer whose log-probabilities come from packed forwards: the same losses and gradients but for rounding.

    Rows of a micro-batch are merged where they begin alike: completions of one prompt share it, and those of a tree
    also what they have in common. So that they meet in a micro-batch, TRL's shuffling keeps them side by side. With
    `steps_per_generation` above 1, `loss_type="bnpo"`, which divides by the tokens of a micro-batch, then divides by
    those of other micro-batches than TRL's.

    num_forwarded, num_padded: tokens forwarded so far in this process, and those of the same rows padded. Raises
    SettingError, or UnsupportedAttentionError for a model whose attention cannot be packed.
    """

    args: Any
    model: Any
    accelerator: Any
    num_generations: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.num_forwarded = self.num_padded = 0
        self._check_model()
        register_attention()
        self.own_attention = str(self.base_model.config._attn_implementation)
        for model in filter(None, (self.base_model, self.ref_model and self._base_of(self.ref_model))):
            follow_trees(model)
        training = self.model.training
        self.model.eval()
        with attention(self.base_model, ATTENTION_NAME):
            check_logits_match(self.base_model)
        self.model.train(training)

    @property
    def base_model(self) -> PreTrainedModel:
        """The model that is trained, without what wraps it."""
        return self._base_of(self.model)

    def _base_of(self, model: Any) -> Any:
        plain = self.accelerator.unwrap_model(model)
        return plain.get_base_model() if is_peft_model(plain) else plain

    def _check_model(self) -> None:
        """Raise SettingError for what packed forwards do not cover."""
        if self._is_vlm:
            raise SettingError("model", "takes images, which cannot be packed; use a text model")
        if self.aux_loss_enabled:
            message = "must be 0: the routers' loss counts padded tokens, and packed forwards have none"
            raise SettingError("router_aux_loss_coef", message, self.router_aux_loss_coef)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise SettingError(
                "fsdp" if self.is_fsdp_enabled else "deepspeed", "packed forwards work with one process or with DDP"
            )
        if self.args.torch_compile:
            raise SettingError("torch_compile", "packed forwards are not compiled", True)
        if is_peft_model(self.model) and any(c.is_prompt_learning for c in self.model.peft_config.values()):
            raise SettingError("peft_config", "puts tokens before the prompt, which cannot be packed; use LoRA")
        model = self.base_model
        check_config(model.config)
        if not model._supports_attention_backend:
            raise SettingError("model", f"{model.config.model_type!r} has its own attention, which cannot be packed")

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> tuple[list[list[int]], list[list[float]] | None]:
        with attention(self.base_model, self.own_attention):
            return super()._generate_single_turn(*args, **kwargs)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        base, logps, entropies = self._base_of(model), [], []
        size = batch_size or len(input_ids)
        for start in range(0, len(input_ids), size):
            ids, mask = (x[start : start + size] for x in (input_ids, attention_mask))
            packed = PackedRows.of(ids.cpu().numpy(), mask.bool().cpu().numpy(), logits_to_keep)
            with self.accelerator.autocast():
                outputs = packed.forward(model, base.base_model, ids.device, base.dtype)
            shape = len(ids), logits_to_keep
            logps.append(packed.unpacked(outputs.log_probs, shape))
            if compute_entropy:
                entropies.append(packed.unpacked(outputs.entropy, shape))
            self.num_forwarded += packed.num_tokens
            self.num_padded += ids.numel()
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            output[ROW] = torch.arange(len(inputs), device=output["completion_ids"].device)
        return output

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        inputs = super()._prepare_inputs(generation_batch)
        if ROW not in inputs:
            return inputs
        self._buffered_inputs = regrouped(self._buffered_inputs, self.num_generations)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]
