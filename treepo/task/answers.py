"""Whether a written answer equals the known one."""

import re
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

from treepo.task.boxed import last_box

PARSE_TIMEOUT_S = 5
LONGEST_PARSED = 500
THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")


def is_right(response: str, answer: str) -> bool:
    """Whether the last complete box of the response holds the known answer, as text or by math-verify.

    A response without a complete box is wrong, and so is a very long one that is not the answer letter by
    letter. math-verify's time limit works in the main thread only.
    """
    box = last_box(response)
    if box is None:
        return False
    if _plain(box) == _plain(answer):
        return True
    if len(box) > LONGEST_PARSED:
        return False
    known, given = (_parsed(text) for text in (answer, box))
    return bool(verify(known, given, timeout_seconds=PARSE_TIMEOUT_S)) if known and given else False


def _plain(text: str) -> str:
    """Without dollar signs, and without the commas of a number written in thousands."""
    plain = text.replace("\\$", "").replace("$", "").strip()
    return plain.replace(",", "") if THOUSANDS.fullmatch(plain) else plain


def _parsed(text: str) -> list[Any]:
    config = [LatexExtractionConfig(boxed_match_priority=0)]
    return list(parse(f"\\boxed{{{text}}}", extraction_config=config, parsing_timeout=PARSE_TIMEOUT_S))
