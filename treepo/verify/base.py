"""The interface of verifiers: a response and the ground truth in, a verdict out."""

import re
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from treepo.data.problem import AnswerFormat, Verdict
from treepo.errors import SettingError
from treepo.verify.extraction import (
    BoxExtraction,
    Extraction,
    LastNumberExtraction,
    MarkExtraction,
    PhraseExtraction,
    Span,
    TagExtraction,
    without_reasoning,
)


class Verifier(Protocol):
    """Judges a response by the ground truth. A frozen dataclass whose fields can be written as JSON.

    It is called in a worker process, which ends it at a limit. Optional methods:

    `load()`, which each worker calls once before the first response and outside the time limit, for slow imports and
    for SettingErrors about fields that cannot work.

    `are_equal(first: str, second: str) -> bool`: whether two extracted answers are one answer, so that they share a
    vote. Symmetric; called in a worker process too. Without it they are equal if their texts are.

    Those of `AnswerFormat`, which say where in a text an answer ends (without them: a complete box).
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


Place = Literal["box", "tag", "mark", "phrase", "last_number"]


@dataclass(frozen=True, kw_only=True)
class FinalAnswer:
    """An AnswerFormat: where in a response the final answer stands. What stands inside <think> never counts."""

    extract_from: tuple[Place, ...] = ("box",)
    r"""Where the answer is; of several, the first in which the response begins one. box: the last \boxed{...}; tag: the
    last <answer>...</answer>; mark: what follows the last #### on its line; phrase: the sentence after the last "the
    answer is" or "Answer:"; last_number: the last number of the response."""

    tag: str = ""
    """Name of the tag of extract_from = "tag"; answer if not given."""

    mark: str = ""
    """The mark of extract_from = "mark", such as Answer:; #### if not given."""

    think_prefilled: bool = False
    """Whether responses begin inside <think> because the prompts end in it; set by itself where all prompts do."""

    def __post_init__(self) -> None:
        places, known = self.extract_from, get_args(Place)
        if isinstance(places, str) or not places or not set(places) <= set(known) or len(set(places)) < len(places):
            raise SettingError("extract_from", f"must list different ones of {', '.join(known)}", places)
        if self.tag and not re.fullmatch(r"[A-Za-z][\w-]*", self.tag):
            raise SettingError("tag", "must be a name without brackets, such as answer", self.tag)
        if self.mark and (not self.mark.strip() or "\n" in self.mark):
            raise SettingError("mark", "must be text on one line, such as ####", self.mark)
        for name, given in (("tag", self.tag), ("mark", self.mark)):
            if given and name not in places:
                raise SettingError(name, f'needs extract_from = "{name}"', given)

    def visible(self, text: str) -> str:
        """The text with line breaks in place of its reasoning."""
        return without_reasoning(text, self.think_prefilled)

    def extract(self, response: str) -> str | None:
        """The answer that a whole response gives, or None."""
        text = self.visible(response)
        found = self._find(text, ended=True)
        return None if found is None else text[found.start : found.end]

    def example_response(self, ground_truth: str) -> str:
        """Return the ground truth in a box, in the tag, behind the mark, and so on."""
        example = self._extractions()[0].example(ground_truth)
        return f"</think>{example}" if self.think_prefilled else example

    def answer_end(self, text: str, ended: bool) -> int | None:
        """Return the index just past the last answer, or None; see AnswerFormat."""
        found = self._find(self.visible(text), ended)
        return None if found is None else found.close

    def has_open_answer(self, text: str) -> bool:
        """Return whether the last box, tag, marked line or sentence with the answer may go on."""
        plain = self.visible(text)
        chosen = self._chosen(plain, ended=False)
        return chosen is not None and chosen.is_open(plain)

    def is_well_formed(self, text: str) -> bool:
        """Return whether the text holds exactly one answer, which is complete and not empty."""
        plain = self.visible(text)
        chosen = self._chosen(plain, ended=True)
        if chosen is None or chosen.count(plain) != 1:
            return False
        found = chosen.find(plain, ended=True)
        return found is not None and bool(plain[found.start : found.end].strip())

    def are_equal(self, first: str, second: str) -> bool:
        """Return whether two extracted answers are one answer: by default, whether they are the same text."""
        return first == second

    def _find(self, text: str, ended: bool) -> Span | None:
        chosen = self._chosen(text, ended)
        return chosen.find(text, ended) if chosen else None

    def _chosen(self, text: str, ended: bool) -> Extraction | None:
        """The first place in which the text gives or begins an answer."""
        return next((one for one in self._extractions() if one.find(text, ended) or one.is_open(text)), None)

    def _extractions(self) -> list[Extraction]:
        known: dict[str, Extraction] = {
            "box": BoxExtraction(),
            "tag": TagExtraction(self.tag or "answer"),
            "mark": MarkExtraction(self.mark or "####"),
            "phrase": PhraseExtraction(),
            "last_number": LastNumberExtraction(),
        }
        return [known[place] for place in self.extract_from]


def answer_format(verifier: object) -> AnswerFormat:
    """How answers to a verifier are written: as its own methods say, or in a box if it has none."""
    return verifier if isinstance(verifier, AnswerFormat) else FinalAnswer()


def is_well_formed(answers: AnswerFormat, text: str) -> bool:
    """Whether a whole response gives its answer as it should: one alone, if the format can tell."""
    if isinstance(answers, FinalAnswer):
        return answers.is_well_formed(text)
    return answers.answer_end(text, True) is not None and not answers.has_open_answer(text)


def compares_texts(verifier: object) -> bool:
    """Whether two extracted answers are one answer only if their texts are the same."""
    method = getattr(type(verifier), "are_equal", None)
    return method is None or method is FinalAnswer.are_equal
