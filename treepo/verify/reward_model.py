"""A reward model as a reward function: a sequence-classification model with one label."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from treepo.errors import SettingError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class RewardModel:
    """Scores prompt and answer together: the logit of the model's only label.

    model: a folder, a name on the hub, or a loaded model with its tokenizer. A conversation goes through the
    tokenizer's chat template; other texts follow each other as they are, as in TRL. batch_size: answers per forward.
    device: that of a loaded model, else a GPU if there is one. It is loaded at the first call, from safetensors only.
    """

    def __init__(
        self,
        model: "str | PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        *,
        batch_size: int = 16,
        device: str = "",
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.device = device

    @property
    def name(self) -> str:
        """Its name in metrics."""
        path = self.model if isinstance(self.model, str) else self.model.config._name_or_path
        return path.rstrip("/").rpartition("/")[2] or type(self.model).__name__

    def load(self) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """The model and its tokenizer, loaded once; raises SettingError if they cannot be."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: PLC0415 - slow to load

        from treepo.distributed import resolve_device  # noqa: PLC0415
        from treepo.model.safety import check_model_files  # noqa: PLC0415
        from treepo.utils.foreign_errors import first_line  # noqa: PLC0415

        if isinstance(self.model, str):
            try:
                check_model_files(Path(self.model))
                tokenizer = self.tokenizer or AutoTokenizer.from_pretrained(self.model)
                model, info = AutoModelForSequenceClassification.from_pretrained(
                    self.model, num_labels=1, use_safetensors=True, output_loading_info=True
                )
            except (OSError, ValueError, RuntimeError) as error:
                raise SettingError("functions", f"no reward model: {first_line(error)}", self.model) from error
            if missing := sorted(info["missing_keys"]):
                message = f"is no reward model: its weights lack {missing[0]!r}"
                raise SettingError("functions", message, self.model)
            self.model, self.tokenizer = model.to(resolve_device(self.device or "auto")).eval(), tokenizer
        if self.tokenizer is None:
            raise SettingError("functions", "a loaded reward model needs its tokenizer: RewardModel(model, tokenizer)")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.config.pad_token_id = self.tokenizer.pad_token_id
        return self.model, self.tokenizer

    def __call__(self, prompts: list[Any], completions: list[Any]) -> list[float]:
        import torch  # noqa: PLC0415 - `import treepo.verify` loads no torch

        model, tokenizer = self.load()
        texts = [_text(tokenizer, p, c) for p, c in zip(prompts, completions, strict=True)]
        # Of similar lengths together, so that little is padded.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        scores = [0.0] * len(texts)
        longest = getattr(model.config, "max_position_embeddings", None)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            inputs = tokenizer(
                [texts[i] for i in batch],
                return_tensors="pt",
                padding=True,
                padding_side="right",
                add_special_tokens=False,
                truncation=longest is not None,
                max_length=longest,
            ).to(model.device)
            with torch.inference_mode():
                logits = model(**inputs).logits[:, 0].float().tolist()
            for i, value in zip(batch, logits, strict=True):
                scores[i] = value
        return scores


def _text(tokenizer: "PreTrainedTokenizerBase", prompt: Any, completion: Any) -> str:
    if isinstance(completion, str):
        return str(prompt) + completion
    return str(tokenizer.apply_chat_template([*prompt, *completion], tokenize=False))
