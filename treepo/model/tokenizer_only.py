"""A model without its weights: as much of it as prompts depend on."""

from dataclasses import dataclass
from functools import partial

from transformers import AutoConfig, PreTrainedTokenizerBase

from treepo.errors import SettingError
from treepo.model.compatibility import max_exact_len
from treepo.model.safety import check_before_loading
from treepo.model.sources import find_source
from treepo.model.tokenizer import load_tokenizer
from treepo.utils.foreign_errors import first_line


@dataclass(frozen=True)
class TokenizerOnly:
    """A model's tokenizer, and the longest sequence that the model is exact for; None if it does not say."""

    tokenizer: PreTrainedTokenizerBase
    max_len: int | None = None


def load_tokenizer_only(
    path: str, trust_remote_code: bool = False, *, tokenizer: str = "", revision: str = ""
) -> TokenizerOnly:
    """Load it from a folder or the name of a model on the hub; raises SettingError for model.path if that fails.

    tokenizer, revision: see ModelSettings.
    """
    source = find_source(path, tokenizer=tokenizer, revision=revision)
    load = partial(
        load_tokenizer, source.tokenizer, trust_remote_code=trust_remote_code, revision=source.tokenizer_revision
    )
    try:
        check_before_loading(source, lambda: load().tokenizer)
        config = AutoConfig.from_pretrained(source.base, trust_remote_code=trust_remote_code, revision=source.revision)
        loaded = load().tokenizer
    except Exception as error:
        message = error.message if isinstance(error, SettingError) else first_line(error) or type(error).__name__
        raise SettingError("model.path", f"cannot load {path!r}: {message}") from error
    return TokenizerOnly(loaded, max_exact_len(config))
