"""Whether a written answer equals the known one."""

from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

from treepo.task.boxed import last_box

PARSE_TIMEOUT_S = 5


def is_right(response: str, answer: str) -> bool:
    """Whether the last complete box of the response holds the known answer, as text or by math-verify.

    A response without a complete box is wrong. math-verify's time limit works in the main thread only.
    """
    box = last_box(response)
    if box is None:
        return False
    if _plain(box) == _plain(answer):
        return True
    known, given = (_parsed(text) for text in (answer, box))
    return bool(verify(known, given, timeout_seconds=PARSE_TIMEOUT_S)) if known and given else False


def _plain(text: str) -> str:
    return text.replace(",", "").replace("$", "").strip()


def _parsed(text: str) -> list[Any]:
    config = [LatexExtractionConfig(boxed_match_priority=0)]
    return list(parse(f"\\boxed{{{text}}}", extraction_config=config, parsing_timeout=PARSE_TIMEOUT_S))
