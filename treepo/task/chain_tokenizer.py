r"""The tokenizer of the built-in task: 29 tokens, digits one by one, `\boxed{` as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
BOX = r"\boxed{"
PAD_ID, BOS_ID, EOS_ID = range(3)
TOKENS = (PAD, BOS, EOS, *"0123456789", *"abcdefgh", *"+-=,;:", BOX, "}")


def make_chain_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: it gives back exactly the text it was given and adds no special tokens.

    Characters outside the task's alphabet are dropped, as there is no token for them.
    """
    from transformers import Qwen2Tokenizer

    # AutoTokenizer rebuilds whatever lies beside a Qwen2 model as a Qwen2Tokenizer, so only one
    # that is such a tokenizer from the start, and differs in vocabulary alone, survives saving.
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(TOKENS)},
        merges=[],
        unk_token=None,  # pyright: ignore[reportArgumentType]
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    # Without merges a word falls apart into characters; an added token stays whole.
    tokenizer.add_tokens([BOX])
    return tokenizer


def is_chain_tokenizer(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a model's tokenizer is this one: what it is asked are then problems of the built-in task."""
    return tokenizer.get_vocab() == {token: index for index, token in enumerate(TOKENS)}
