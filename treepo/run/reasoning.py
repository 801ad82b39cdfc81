"""Whether responses begin inside reasoning, as where a chat template ends the prompt with <think>."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

from treepo.data.problem import Decode
from treepo.verify.base import FinalAnswer, Verifier

logger = logging.getLogger(__name__)

TAIL_TOKENS = 16
"""Tokens at the end of a prompt that hold <think>, if it ends with it."""


def for_prompts(verifier: Verifier, prompts: Iterable[Sequence[int]], decode: Decode) -> Verifier:
    """The verifier, told that responses begin inside reasoning if all prompts end with <think>, which is logged.

    prompts: token ids. If only some do, a warning says that these responses' answers count only behind </think>.
    """
    if not isinstance(verifier, FinalAnswer) or verifier.think_prefilled:
        return verifier
    ends = [decode(list(ids[-TAIL_TOKENS:])).rstrip().lower().endswith("<think>") for ids in prompts]
    if ends and all(ends):
        logger.info("prompts end with <think>: answers count behind </think> alone (verifier.think_prefilled)")
        return replace(verifier, think_prefilled=True)
    if any(ends):
        logger.warning(
            "%d of %d prompts end with <think>, the others do not: until </think> what their responses say "
            "is taken for an answer",
            sum(ends),
            len(ends),
        )
    return verifier
