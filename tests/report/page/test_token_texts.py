"""The texts of tokens add up to the text of a path."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from treepo.report.page.token_texts import UNDECODED, TokenTexts
from treepo.tree import ROOT, Node, StopReason, Tree

WORDS = "the answer is four and a half "


def byte_level() -> Tokenizer:
    """One token per byte, as GPT-2 and Qwen write them."""
    vocab = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Letters with a mark for spaces, which is dropped at the start of a text, and bytes for the rest, as Llama 2."""
    letters = ["<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz", *(f"<0x{i:02X}>" for i in range(256))]
    vocab = {letter: i for i, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


TOKENIZERS = {"byte level": byte_level(), "byte fallback": byte_fallback()}


def chain(prompt: list[int], segments: list[list[int]]) -> Tree:
    tree = Tree.from_prompt("p", np.array(prompt), 0)
    for i, ids in enumerate(segments):
        stop = StopReason.EOS if i == len(segments) - 1 else None
        tree.add(Node(i, np.array(ids, np.int32), np.zeros(len(ids), np.float32), 0, stop))
    return tree


def cut(ids: list[int], places: list[int]) -> list[list[int]]:
    bounds = sorted({0, len(ids), *(place % len(ids) for place in places)})
    return [ids[a:b] for a, b in pairwise(bounds)]


@settings(max_examples=60)
@given(
    st.sampled_from([*TOKENIZERS]),
    st.text("a €é日🙂🏳️", min_size=1, max_size=12),
    st.lists(st.integers(0, 99), max_size=4),
)
def test_a_text_cut_anywhere_is_given_back_without_a_broken_character(name, text, places):
    """Segments that end within a character, whose bytes are tokens of their own."""
    tokenizer = TOKENIZERS[name]
    prompt, ids = tokenizer.encode(WORDS).ids, tokenizer.encode("x" + text).ids
    texts = TokenTexts(tokenizer.decode).of(chain(prompt, cut(ids, places)))
    joined = "".join(text for own in texts[1:] for text in own)
    assert joined == tokenizer.decode(prompt + ids)[len(tokenizer.decode(prompt)) :]
    assert UNDECODED not in joined


@settings(max_examples=60)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=40), st.lists(st.integers(0, 99), max_size=4))
def test_any_bytes_are_given_back_as_they_are_decoded(ids, places):
    tokenizer = TOKENIZERS["byte level"]
    texts = TokenTexts(tokenizer.decode).of(chain(tokenizer.encode("a").ids, cut(ids, places)))
    assert "".join(text for own in texts for text in own) == "a" + tokenizer.decode(ids)


def test_the_last_token_of_a_character_has_it():
    tokenizer = TOKENIZERS["byte level"]
    ids = tokenizer.encode("a€b").ids
    assert TokenTexts(tokenizer.decode).of(chain(ids[:1], [ids[1:3], ids[3:]])) == [["a"], ["", ""], ["€", "b"]]


def test_siblings_each_finish_the_character_of_their_parent():
    """The parent ends after two of three bytes, which begin two characters."""
    tokenizer = TOKENIZERS["byte level"]
    one, other = tokenizer.encode("€").ids, tokenizer.encode("₭").ids
    assert one[:2] == other[:2]
    tree = chain(tokenizer.encode("a").ids, [one[:2], one[2:]])
    tree.add(Node(1, np.array(other[2:], np.int32), np.zeros(1, np.float32), 0, StopReason.EOS))
    assert TokenTexts(tokenizer.decode).of(tree)[1:] == [["", ""], ["€"], ["₭"]]


def test_a_character_that_was_never_finished_is_shown_as_one_that_is_not():
    tokenizer = TOKENIZERS["byte level"]
    assert TokenTexts(tokenizer.decode).of(chain([65], [tokenizer.encode("b€").ids[:3]]))[1] == ["b", "", UNDECODED]


@pytest.mark.parametrize("count", [63, 64, 1000])
def test_bytes_that_are_never_a_character_do_not_cost_their_square(count):
    decoded = []

    def decode(ids):
        decoded.append(len(ids))
        return TOKENIZERS["byte level"].decode(list(ids))

    texts = TokenTexts(decode).of(chain([65], [[255 - 67] * count]))
    assert "".join(texts[1]) == decode([255 - 67] * count)
    assert max(decoded[:-1]) <= 128
    assert texts[ROOT] == [decode([65])]
