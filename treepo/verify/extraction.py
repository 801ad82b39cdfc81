"""Where in a response the final answer stands: in a box, in a tag, after a mark or a phrase, or the last number.

All of it takes linear time, since responses are untrusted and may be long.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from treepo.data.boxes import count_boxes, find_last_box, has_open_box
from treepo.verify.numbers import last_number


class Span(NamedTuple):
    """Where an answer begins and ends, and the index just past what closes it."""

    start: int
    end: int
    close: int


class Extraction(Protocol):
    """One way to write a final answer. Texts come without reasoning."""

    def find(self, text: str, ended: bool) -> Span | None:
        """The last answer; None without one, and if the last one is not complete.

        ended: whether nothing follows the text, which completes an answer that runs to the end of its line.
        """
        ...

    def is_open(self, text: str) -> bool:
        """Whether the text begins an answer last that more text may complete or change."""
        ...

    def count(self, text: str) -> int:
        """How many answers the text begins."""
        ...

    def example(self, ground_truth: str) -> str:
        """A response with this answer."""
        ...


@dataclass(frozen=True)
class BoxExtraction:
    r"""The last \boxed{...}."""

    def find(self, text: str, ended: bool) -> Span | None:
        found = find_last_box(text, ended)
        return Span(*found) if found else None

    def is_open(self, text: str) -> bool:
        return has_open_box(text)

    def count(self, text: str) -> int:
        return count_boxes(text)

    def example(self, ground_truth: str) -> str:
        return f"\\boxed{{{ground_truth}}}"


@dataclass(frozen=True)
class TagExtraction:
    """The last <answer>...</answer>, or of another name, in small or capital letters."""

    name: str

    def find(self, text: str, ended: bool) -> Span | None:
        start, span = -1, None
        for tag in self._tags(text):
            if not tag[1]:
                start, span = tag.end(), None
            elif start >= 0 and span is None:
                span = Span(start, tag.start(), tag.end())
        return span and _box_within(text, span)

    def is_open(self, text: str) -> bool:
        return self.count(text) > 0 and self.find(text, ended=False) is None

    def count(self, text: str) -> int:
        return sum(not tag[1] for tag in self._tags(text))

    def example(self, ground_truth: str) -> str:
        return f"<{self.name}>{ground_truth}</{self.name}>"

    def _tags(self, text: str) -> list[re.Match[str]]:
        return list(re.finditer(rf"<(/?){re.escape(self.name)}>", text, re.IGNORECASE))


@dataclass(frozen=True)
class MarkExtraction:
    """What follows the last occurrence of a mark, such as ####, on its line."""

    mark: str

    def find(self, text: str, ended: bool) -> Span | None:
        before, mark, rest = text.rpartition(self.mark)
        line, newline, _ = rest.partition("\n")
        if not mark or not line.strip() or not (newline or ended):
            return None
        start = len(before) + len(mark)
        return _box_within(text, Span(start, start + len(line), start + len(line)))

    def is_open(self, text: str) -> bool:
        _, mark, rest = text.rpartition(self.mark)
        return bool(mark) and "\n" not in rest

    def count(self, text: str) -> int:
        return text.count(self.mark)

    def example(self, ground_truth: str) -> str:
        return f"{self.mark} {ground_truth}"


_PHRASE = re.compile(
    r"\banswers?[*_]{0,3}(?:\s(?:to|of|for)\s[^.:=\n]{1,80}?)?(?:\s{1,3}(?:is|are)\b|\s{0,3}[:=])[:*_]{0,4}\s{0,9}",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(
    r"\n|\.[*_\"')\]$]{0,4}(?=\s)|[!?][*_\"')\]$]{0,4}(?=\s(?![-+*/=]|\\))|[,;]?[ \t]{1,3}(?:because|since|which)\b",
    re.IGNORECASE,
)
_ONLY_ARTICLES = re.compile(r"(?:\s|\*|the\b|final\b|correct\b|so\b)*", re.IGNORECASE)
_CONTENT = re.compile(r"[^.,;:!?)\s]|\.[0-9]")
_DISPLAY = {"\\[": "\\]", "$$": "$$"}
_INLINE = (("$", "$"), ("\\(", "\\)"), ("__", "__"), ('"', '"'))


@dataclass(frozen=True)
class PhraseExtraction:
    """The rest of the sentence after the last "the answer is" or "Answer:"."""

    def find(self, text: str, ended: bool) -> Span | None:
        start = self._last_start(text)
        if start is None:
            return None
        closing = _DISPLAY.get(text[start : start + 2])
        if closing:
            end = text.find(closing, start + 2)
            return _box_within(text, Span(start + 2, end, end + 2)) if end >= 0 else None
        stop = _SENTENCE_END.search(text, start)
        if stop is None and not ended:
            return None
        end = stop.start() if stop else len(text)
        return _box_within(text, _without_decoration(text, Span(start, end, end)))

    def is_open(self, text: str) -> bool:
        return self._last_start(text, ended=False) is not None and self.find(text, ended=False) is None

    def count(self, text: str) -> int:
        return len(self._starts(text, ended=True))

    def example(self, ground_truth: str) -> str:
        return f"The answer is {ground_truth}"

    def _last_start(self, text: str, ended: bool = True) -> int | None:
        return max(self._starts(text, ended), default=None)

    def _starts(self, text: str, ended: bool) -> list[int]:
        """Where what follows each phrase begins, if anything does: "what the answer is." gives none."""
        ends: list[int] = []
        for phrase in _PHRASE.finditer(text):
            # "Final Answer: The final answer is" is one phrase.
            if ends and phrase.start() - ends[-1] < 30 and _ONLY_ARTICLES.fullmatch(text, ends[-1], phrase.start()):
                ends.pop()
            ends.append(phrase.end())
        return [end for end in ends if (not ended if end == len(text) else _CONTENT.match(text, end))]


@dataclass(frozen=True)
class LastNumberExtraction:
    """The last number of the whole response, which is complete when the response is."""

    def find(self, text: str, ended: bool) -> Span | None:
        found = last_number(text) if ended else None
        return Span(found.start, found.end, found.end) if found else None

    def is_open(self, text: str) -> bool:
        return False

    def count(self, text: str) -> int:
        return int(last_number(text) is not None)

    def example(self, ground_truth: str) -> str:
        return ground_truth


def _box_within(text: str, span: Span) -> Span:
    """The content of the last box within an answer, if there is one, in its place."""
    box = find_last_box(text[span.start : span.end])
    return Span(span.start + box.start, span.start + box.end, span.close) if box else span


def _without_decoration(text: str, span: Span) -> Span:
    """Without blanks, asterisks and the full stop around it, and without dollar signs and quotes that form a pair."""
    start, end, _ = span
    while True:
        before = start, end
        while start < end and (text[start].isspace() or text[start] == "*"):
            start += 1
        while start < end and (text[end - 1].isspace() or text[end - 1] in ".!?*"):
            end -= 1
        inner = text[start:end]
        for opening, closing in _INLINE:
            content = inner[len(opening) : -len(closing)]
            if content and inner == f"{opening}{content}{closing}" and opening not in content:
                start, end = start + len(opening), end - len(closing)
                break
        if (start, end) == before:
            return Span(start, end, span.close)


_THINK = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)


def without_reasoning(text: str, begins_inside: bool = False) -> str:
    """The text with line breaks in place of <think>...</think>, so that indices stay as they are.

    Reasoning that is not closed runs to the end; a </think> that nothing opened ends reasoning that began with the
    text, as where a chat template writes <think> at the end of the prompt. begins_inside: whether it is known that the
    text begins inside reasoning.
    """
    start = 0 if begins_inside else None
    spans: list[tuple[int, int]] = []
    for tag in _THINK.finditer(text):
        if not tag[1]:
            start = tag.start() if start is None else start
            continue
        if start is None:
            start = 0
            spans.clear()
        spans.append((start, tag.end()))
        start = None
    if start is not None:
        spans.append((start, len(text)))
    pieces, position = [], 0
    for begin, end in spans:
        pieces += [text[position:begin], "\n" * (end - begin)]
        position = end
    return "".join([*pieces, text[position:]])
