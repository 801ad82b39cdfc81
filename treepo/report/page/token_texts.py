"""The text of each token, such that those on a path add up to the path's text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from treepo.tree import ROOT, Tree

UNDECODED = "\N{REPLACEMENT CHARACTER}"
"""What decoding makes of bytes that are no character, or not yet one."""

MAX_UNDECODED = 3
"""A character has at most four bytes."""

MAX_CHUNK = 64
"""Tokens that are decoded together at most; without a bound, bytes that never become a character cost their square."""


@dataclass(frozen=True)
class Place:
    """A point on a path. known: tokens whose text has been given out whole, from the start of a character, which the
    text of what follows may depend on. chunk: those after them, while their text may still change; given: what has been
    given out of the text of both."""

    known: tuple[int, ...]
    chunk: tuple[int, ...] = ()
    given: str = ""


@dataclass
class TokenTexts:
    """Takes trees apart; where several tokens make one character, the last of them gets it and the others nothing.

    decode: token ids to text without special tokens.
    """

    decode: Callable[[Sequence[int]], str]
    plain: dict[int, str | None] = field(default_factory=dict)

    def of(self, tree: Tree) -> list[list[str]]:
        """For each node the text of each of its tokens; of the prompt one text for all.

        A character whose tokens lie in two nodes is in the lower one; one that was never finished, at the end of a
        leaf, is as `decode` has it.
        """
        prompt_ids = tuple(tree.prompt_ids.tolist())
        texts: list[list[str]] = [[] for _ in tree.nodes]
        texts[ROOT] = [self.decode(prompt_ids)]
        places = {ROOT: Place(prompt_ids[-MAX_CHUNK:])}
        children = tree.children()
        for index in tree.top_down():
            if index == ROOT:
                continue
            place = places[tree.nodes[index].parent]
            for token in tree.nodes[index].token_ids.tolist():
                text, place = self._next(place, token)
                texts[index].append(text)
            if place.chunk and texts[index] and not children[index]:
                texts[index][-1] += self.decode(place.known + place.chunk)[len(place.given) :]
            places[index] = place
        return texts

    def _next(self, place: Place, token: int) -> tuple[str, Place]:
        """(the text that has become certain with this token, the point after it)."""
        text = self._plain(token)
        if text is not None and not place.chunk:
            return text, Place((token,)) if text else place
        given = place.given if place.chunk else self.decode(place.known)
        chunk = (*place.chunk, token)
        whole = self.decode(place.known + chunk)
        if len(chunk) == MAX_CHUNK:
            return whole[len(given) :], Place(chunk)
        if not whole.startswith(given):
            # Some decoders give up on all bytes that stand side by side while the last are no character yet.
            return "", Place(place.known, chunk, given)
        end = max(len(given), len(whole) - _num_undecoded(whole))
        if end == len(whole):
            return whole[len(given) :], Place(chunk)
        return whole[len(given) : end], Place(place.known, chunk, whole[:end])

    def _plain(self, token: int) -> str | None:
        """The text of a token that has the same text wherever it stands, or None."""
        if token not in self.plain:
            text = self.decode([token])
            is_plain = UNDECODED not in text and self.decode([token, token]) == 2 * text
            self.plain[token] = text if is_plain else None
        return self.plain[token]


def _num_undecoded(text: str) -> int:
    """How many characters at the end of a text may become others with the next token."""
    return min(len(text) - len(text.rstrip(UNDECODED)), MAX_UNDECODED)
