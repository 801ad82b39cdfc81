"""The interface of verifiers: a response and the ground truth in, a verdict out."""

import re
from dataclasses import dataclass
from typing import Protocol

from treepo.data.boxes import find_last_box, has_open_box
from treepo.data.problem import AnswerFormat, Verdict
from treepo.errors import SettingError


class Verifier(Protocol):
    """Judges a response by the ground truth. A frozen dataclass whose fields can be written as JSON.

    It is called in a worker process, which ends it at a limit. Optional methods: `load()`, which each worker calls once
    before the first response and outside the time limit, for slow imports and for SettingErrors about fields that
    cannot work; and those of `AnswerFormat`, which say where in a text an answer ends (without them: a complete box).
    """

    def __call__(self, response: str, ground_truth: str, /) -> Verdict:
        """Return the verdict on a response, which is untrusted text of any length; an exception becomes CRASHED.

        Parameters after these two are passed by keyword: each the column of the problem's record that has its name,
        **columns all of them.
        """
        ...

    def example_response(self, ground_truth: str) -> str:
        """Return a response that gives the ground truth and must be judged right."""
        ...


@dataclass(frozen=True, kw_only=True)
class FinalAnswer:
    r"""An AnswerFormat: the content of the last complete \boxed{...}, unless a mark or a tag is set."""

    mark: str = ""
    """The answer is what follows the last occurrence of this mark on its line, e.g. #### or Answer:"""

    tag: str = ""
    """The answer is what the last complete tag of this name holds, e.g. answer for <answer>...</answer>."""

    def __post_init__(self) -> None:
        if self.tag and not re.fullmatch(r"[A-Za-z][\w-]*", self.tag):
            raise SettingError("tag", "must be a name without brackets, such as answer", self.tag)
        if self.tag and self.mark:
            raise SettingError("tag", "excludes mark", self.tag)

    def find(self, text: str) -> tuple[int, int] | None:
        """Where the last answer begins and ends; behind a mark, its line may still be going on."""
        if self.tag:
            opening, closing = f"<{self.tag}>", f"</{self.tag}>"
            start = text.rfind(opening, 0, max(text.rfind(closing), 0))
            return None if start < 0 else (start + len(opening), text.find(closing, start))
        if self.mark:
            before, mark, rest = text.rpartition(self.mark)
            start = len(before) + len(mark)
            return (start, start + len(rest.partition("\n")[0])) if mark else None
        return find_last_box(text)

    def extract(self, response: str) -> str | None:
        """The answer that a whole response gives, or None."""
        found = self.find(response)
        return None if found is None else response[slice(*found)]

    def example_response(self, ground_truth: str) -> str:
        """Return the ground truth in a box, in the tag, or behind the mark."""
        if self.tag:
            return f"<{self.tag}>{ground_truth}</{self.tag}>"
        return f"{self.mark} {ground_truth}" if self.mark else f"\\boxed{{{ground_truth}}}"

    def answer_end(self, text: str, ended: bool) -> int | None:
        """Return the index just past the last complete answer, or None; see AnswerFormat."""
        if self.mark and not ended:
            # The next segment may go on with the last line.
            text = text[: text.rfind("\n") + 1]
        found = self.find(text)
        if found is None or (self.mark and not text[slice(*found)].strip()):
            return None
        return found[1] + (len(f"</{self.tag}>") if self.tag else not self.mark)

    def has_open_answer(self, text: str) -> bool:
        """Return whether the last box or tag is not closed, or the last mark's line not ended."""
        if self.tag:
            return text.rfind(f"<{self.tag}>") > text.rfind(f"</{self.tag}>")
        if self.mark:
            _, mark, rest = text.rpartition(self.mark)
            return bool(mark) and "\n" not in rest
        return has_open_box(text)


def answer_format(verifier: object) -> AnswerFormat:
    """How answers to a verifier are written: as its own methods say, or in a box if it has none."""
    return verifier if isinstance(verifier, AnswerFormat) else FinalAnswer()
