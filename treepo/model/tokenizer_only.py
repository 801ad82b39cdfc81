"""A model without its weights: as much of it as prompts depend on."""

from dataclasses import dataclass
from functools import partial

from transformers import AutoConfig, PreTrainedTokenizerBase

from treepo.errors import SettingError
from treepo.model.compatibility import max_exact_len
from treepo.model.policy import check_folder
from treepo.model.safety import check_before_loading
from treepo.model.tokenizer import load_tokenizer
from treepo.utils.foreign_errors import first_line


@dataclass(frozen=True)
class TokenizerOnly:
    """A model's tokenizer, and the longest sequence that the model is exact for; None if it does not say."""

    tokenizer: PreTrainedTokenizerBase
    max_len: int | None = None


def load_tokenizer_only(path: str, trust_remote_code: bool = False) -> TokenizerOnly:
    """Load it from a folder or the name of a model on the hub; raises SettingError for model.path if that fails."""
    check_folder(path)
    load = partial(load_tokenizer, path, trust_remote_code=trust_remote_code)
    try:
        check_before_loading(path, lambda: load().tokenizer)
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        tokenizer = load().tokenizer
    except Exception as error:
        message = error.message if isinstance(error, SettingError) else first_line(error) or type(error).__name__
        raise SettingError("model.path", f"cannot load {path!r}: {message}") from error
    return TokenizerOnly(tokenizer, max_exact_len(config))
