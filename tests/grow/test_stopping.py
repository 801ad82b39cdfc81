r"""Why a path ends: each reason, which comes first, and the repetition check against a naive one."""

import time
from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.grow.reference import has_repetition
from tests.grow.scripts import EOS, PIECES, text_of
from treepo.data.problem import AnswerFormat
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import PathEnd, StopRules, repeats
from treepo.tree import StopReason
from treepo.verify import ChoiceVerifier, FinalAnswer

pytestmark = pytest.mark.quick

BOX = [PIECES.index("\\boxed{"), PIECES.index("1"), PIECES.index("}")]
A = PIECES.index("a")
SHAPE = TreeShape(depth=100, segment_len=100)
LOOSE = {"repetition_len": 2, "repetition_count": 3}


def path_end(
    response: list[int], segment: list[int], shape: TreeShape = SHAPE, num_segments: int = 1, ended: bool | None = None
) -> PathEnd:
    """The end of a path that ends with a new segment."""
    assert response[len(response) - len(segment) :] == segment
    drawn = segment[-1] in EOS if ended is None else ended
    return PathEnd(response, segment, drawn, num_segments, shape, text_of, FinalAnswer())


def test_a_path_goes_on() -> None:
    """With no reason there is none."""
    assert StopRules()(path_end([A] * 4, [A] * 2)) is None


@pytest.mark.parametrize("eos", EOS)
def test_each_eos_ends_a_path(eos: int) -> None:
    """Also as the first token of its segment."""
    assert StopRules()(path_end([A, A, eos], [A, eos])) == StopReason.EOS
    assert StopRules()(path_end([A, A, eos], [eos])) == StopReason.EOS


@pytest.mark.parametrize(
    ("rule", "eos", "expected"),
    [
        ("answer", False, StopReason.ANSWER),
        ("answer", True, StopReason.ANSWER),
        ("answer_and_eos", False, None),
        ("answer_and_eos", True, StopReason.ANSWER),
        ("never", False, None),
        ("never", True, StopReason.EOS),
    ],
)
def test_the_answer_rules(rule: str, eos: bool, expected: StopReason | None) -> None:
    """A closed box alone, or with EOS."""
    response = [A, *BOX] + [EOS[0]] * eos
    assert StopRules(answer=rule)(path_end(response, response)) == expected


@pytest.mark.parametrize("rule", ["answer", "answer_and_eos"])
def test_an_open_box_is_no_answer(rule: str) -> None:
    """EOS before the brace closes is just EOS."""
    response = [A, *BOX[:2], EOS[0]]
    assert StopRules(answer=rule)(path_end(response, response)) == StopReason.EOS
    assert StopRules(answer=rule)(path_end(response[:-1], response[:-1])) is None


@pytest.mark.parametrize("at", range(1, 6))
@pytest.mark.parametrize("rule", ["answer", "answer_and_eos"])
def test_a_box_that_straddles_two_segments_is_found(rule: str, at: int) -> None:
    r"""Fault of the authors' release: a box that straddles two segments was missed, wherever it was divided."""
    response = [A, PIECES.index("\\box"), PIECES.index("ed{"), *BOX[1:], EOS[0]]
    assert StopRules(answer=rule)(path_end(response, response[at:])) == StopReason.ANSWER


def test_a_box_of_an_earlier_segment_counts() -> None:
    """The box in the first segment, EOS in the third."""
    assert StopRules()(path_end([*BOX, A, A, EOS[0]], [EOS[0]], num_segments=3)) == StopReason.ANSWER


def test_the_longest_response_ends_a_path() -> None:
    """At the bound, not before."""
    shape = TreeShape(depth=4, segment_len=4, max_response_len=6)
    assert StopRules()(path_end([A] * 5, [A], shape, 2)) is None
    assert StopRules()(path_end([A] * 6, [A], shape, 2)) == StopReason.LENGTH


def test_the_deepest_level_ends_a_path() -> None:
    """At the depth, not before."""
    shape = TreeShape(depth=3, segment_len=4)
    assert StopRules()(path_end([A] * 8, [A] * 4, shape, 2)) is None
    assert StopRules()(path_end([A] * 12, [A] * 4, shape, 3)) == StopReason.DEPTH


@pytest.mark.parametrize("when", ["first", "last"])
def test_repetition_is_looked_for_in_the_new_segment_only(when: str) -> None:
    """What repeats earlier, or across the boundary, has been looked at already or does not count."""
    rules = StopRules(repetition=when, **LOOSE)
    assert rules(path_end([A] * 4, [A] * 4)) == StopReason.REPETITION
    assert rules(path_end([A] * 6, [A] * 3)) is None
    assert rules(path_end([A] * 9 + [3], [3])) is None


def test_repetition_can_be_switched_off() -> None:
    """Never means never."""
    assert StopRules(repetition="never", **LOOSE)(path_end([A] * 50, [A] * 50)) is None


@pytest.mark.parametrize("when", ["first", "last", "never"])
def test_precedence(when: str) -> None:
    """Every combination of reasons: the first in the order of the specification is kept."""
    for repeating, box, eos, longest, deepest in product([False, True], repeat=5):
        response = [A] * 4 * repeating + BOX * box + [3] + [EOS[0]] * eos
        shape = TreeShape(depth=4, segment_len=4, max_response_len=len(response) if longest else 16)
        end = path_end(response, response, shape, 4 if deepest else 1)
        order = [
            (StopReason.REPETITION, repeating and when == "first"),
            (StopReason.ANSWER, box and eos),
            (StopReason.EOS, eos),
            (StopReason.LENGTH, longest),
            (StopReason.DEPTH, deepest),
            (StopReason.REPETITION, repeating and when == "last"),
        ]
        expected = next((reason for reason, holds in order if holds), None)
        assert StopRules(repetition=when, **LOOSE)(end) == expected, (repeating, box, eos, longest, deepest)


def test_the_defaults_are_those_of_the_authors_runs() -> None:
    """Box and EOS; any 32 characters 8 times, checked first."""
    rules = StopRules()
    assert (rules.answer, rules.repetition) == ("answer_and_eos", "first")
    assert (rules.repetition_len, rules.repetition_count) == (32, 8)
    assert rules(path_end([A] * 38, [A] * 38)) is None
    assert rules(path_end([A] * 39, [A] * 39)) == StopReason.REPETITION, "39 letters hold 8 overlapping windows of 32"


@settings(max_examples=500, deadline=None)
@given(st.text("ab", max_size=30), st.integers(1, 6), st.integers(1, 6))
def test_repetition_equals_a_naive_count(text: str, length: int, count: int) -> None:
    """Overlaps count."""
    assert repeats(text, length, count) == has_repetition(text, length, count)


def test_texts_shorter_than_the_window_do_not_repeat() -> None:
    """Not even once."""
    assert not repeats("", 1, 1)
    assert not repeats("ab", 3, 1)
    assert repeats("abc", 3, 1)


def test_repetition_is_quick_on_a_long_segment() -> None:
    """A hundred thousand characters take well under a second."""
    start = time.perf_counter()
    assert repeats("ab" * 50_000, 32, 8)
    assert not repeats("".join(map(str, range(20_000))), 32, 8)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("wrong", [{"repetition_len": 0}, {"repetition_count": 0}])
def test_impossible_rules_are_refused(wrong: dict[str, int]) -> None:
    """With the field and its value named."""
    [(name, value)] = wrong.items()
    with pytest.raises(ValueError, match=f"{name}.*got {value}"):
        StopRules(**wrong)


NUMBER_LINE = ("so", "#", "###", " 7", "2", "\n", "<answer>", "</answer>", "Answer: B", "e")
"""Pieces of texts whose answers are no boxes."""


def read(ids: Sequence[int]) -> str:
    return "".join(NUMBER_LINE[i] for i in ids if i < len(NUMBER_LINE))


@pytest.mark.parametrize(
    ("answers", "pieces", "rest"),
    [
        (FinalAnswer(extract_from=("mark",)), ["so", "#", "###", " 7", "2", "\n"], "so"),
        (FinalAnswer(extract_from=("tag",)), ["<answer>", " 7", "2", "</answer>"], "so"),
        (ChoiceVerifier(), ["so", "Answer: B", "\n"], "so"),
    ],
)
def test_any_format_of_answers_stops_a_path_like_a_box(answers: AnswerFormat, pieces: list[str], rest: str) -> None:
    """Also an answer that straddles two segments; as long as it is not complete the path goes on."""
    ids = [NUMBER_LINE.index(piece) for piece in pieces]
    alone, with_eos = StopRules(answer="answer"), StopRules()

    def end(response: list[int], at: int, *, ended: bool) -> PathEnd:
        return PathEnd(response, response[at:], ended, 1, SHAPE, read, answers)

    for at in range(len(ids)):
        assert alone(end(ids, at, ended=False)) == StopReason.ANSWER
        assert alone(end([*ids, NUMBER_LINE.index(rest)], at, ended=False)) == StopReason.ANSWER
        assert with_eos(end(ids, at, ended=False)) is None
        assert with_eos(end([*ids, EOS[0]], at, ended=True)) == StopReason.ANSWER
    for kept in range(1, len(ids)):
        assert alone(end(ids[:kept], 0, ended=False)) is None
    assert with_eos(end([NUMBER_LINE.index("so"), EOS[0]], 0, ended=True)) == StopReason.EOS


def test_a_letter_that_begins_a_word_does_not_stop_a_path() -> None:
    ids = [NUMBER_LINE.index(piece) for piece in ("Answer: B", "e")]
    for kept in (1, 2):
        assert (
            StopRules(answer="answer")(PathEnd(ids[:kept], ids[:kept], False, 1, SHAPE, read, ChoiceVerifier())) is None
        )


def test_a_stop_string_ends_a_path_like_an_answer() -> None:
    """Wherever it lies, also across segments and above other reasons to end, but not where it is incomplete."""
    rules = StopRules(repetition="never", stop_strings=("ab", "zzz"))
    b = PIECES.index("b")
    assert text_of([A, b]) == "ab"
    assert rules(path_end([A, A, b, A], [A, b, A])) == StopReason.ANSWER
    assert rules(path_end([A, b], [b])) == StopReason.ANSWER
    assert rules(path_end([b, A], [A])) is None
    assert rules(path_end([A, b, EOS[0]], [b, EOS[0]])) == StopReason.ANSWER
    assert rules(path_end([b, A, EOS[0]], [EOS[0]])) == StopReason.EOS
    shape = TreeShape(depth=1, segment_len=2)
    assert rules(path_end([A, b], [A, b], shape=shape)) == StopReason.ANSWER


def test_an_empty_stop_string_is_refused() -> None:
    """It would end every path at once."""
    with pytest.raises(ValueError, match="^stop_strings: must not be empty texts"):
        StopRules(stop_strings=("a", ""))
