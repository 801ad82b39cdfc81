"""Sources of reasoning-gym as they are written, without the library."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Literal, Optional
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.data.reasoning_gym import GymSource, as_literals, open_dataset, read_options
from treepo.data.sources import dataset_names, labels, parse_source
from treepo.errors import RecordError


class Case(StrEnum):
    LOWER = "lower"


@dataclass
class Options:
    count: int = 1
    share: float = 0.5
    is_hard: bool = False
    name: str = "a"
    style: Literal["plain", "99"] = "plain"
    word: Optional[str] = None  # noqa: UP045 - as the library writes it
    rotations: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    kinds: tuple[str] = ("x",)
    bare: tuple = ()
    letters: Sequence[str] = ()
    ranges: list[tuple[float, float]] = field(default_factory=list)
    first: date = date(2000, 1, 1)
    case: Case = Case.LOWER
    seed: int | None = None
    size: int = 500


@given(
    count=st.integers(-(2**60), 2**60),
    share=st.floats(allow_nan=False, allow_infinity=False),
    is_hard=st.booleans(),
    name=st.text(st.characters(codec="utf-8", exclude_categories=("Cs",))),
    numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1),
    words=st.lists(st.text("abc+-*/ 0123456789", min_size=1), min_size=1),
)
def test_options_are_read_back(count, share, is_hard, name, numbers, words):
    """Any number, flag, text and list, with % for what separates options; a text of digits stays a text."""
    given = {"count": count, "share": repr(share), "is_hard": str(is_hard).lower(), "name": quote(name)}
    given |= {"weights": ",".join(map(repr, numbers)), "kinds": quote(",".join(words))}
    text = "&".join(f"{key}={value}" for key, value in given.items())
    expected = {"count": count, "share": share, "is_hard": is_hard, "name": name, "weights": numbers}
    assert read_options(Options, text) == expected | {"kinds": tuple(words)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("share=1", {"share": 1.0}),
        ("style=99", {"style": "99"}),
        ("word=null", {"word": None}),
        ("word=7", {"word": "7"}),
        ("rotations=90,180", {"rotations": ["90", "180"]}),
        ('rotations=["9,0"]', {"rotations": ["9,0"]}),
        ("bare=linear,[1]", {"bare": ("linear", [1])}),
        ("letters=a", {"letters": ["a"]}),
        ("ranges=[[0.1,0.2],[0.3,1]]", {"ranges": [(0.1, 0.2), (0.3, 1.0)]}),
        ("first=2020-02-29", {"first": date(2020, 2, 29)}),
        ("case=lower", {"case": Case.LOWER}),
        ("name=a%26b%3Dc", {"name": "a&b=c"}),
    ],
)
def test_options_have_the_types_of_the_config(text, expected):
    found = read_options(Options, text)
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuont=2", "Options of reasoning-gym has no 'cuont'; did you mean count"),
        ("zzz=2", "has no 'zzz'; there are count, share"),
        ("count=many", "option 'count': Input should be a valid integer"),
        ("count=1.5", "option 'count'"),
        ("count=true", "option 'count'"),
        ("is_hard=1", "option 'is_hard'"),
        ("share=NaN", "option 'share'"),
        ("style=odd", "option 'style': Input should be 'plain' or '99', got 'odd'"),
        ("first=2021-02-29", "option 'first'"),
        ("count", "option 'count' needs a value: count=..."),
        ("count=1&count=2", "option 'count' is given twice"),
        ("seed=1", "option 'seed' is derived from train.seed and data.eval_seed"),
        ("size=1", "data.eval_size says how many are held out"),
    ],
)
def test_what_the_config_does_not_take_is_named(text, message):
    with pytest.raises(RecordError) as raised:
        read_options(Options, text)
    assert message in str(raised.value)


def test_a_source_is_parsed_without_the_library(monkeypatch):
    """Its name in metrics is the dataset's; of two with different options, the whole."""
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    one, other = (parse_source(text) for text in ("reasoning_gym:ab?length=3", "reasoning_gym:ab"))
    assert (one.format, str(one), one.is_local, one.is_pattern) == ("ab", "reasoning_gym:ab?length=3", False, False)
    assert dataset_names([one]) == ["ab"]
    assert dataset_names([one, other]) == labels([one, other]) == ["reasoning_gym:ab?length=3", "reasoning_gym:ab"]
    assert GymSource.of(str(one)) == one


def test_without_the_library_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "reasoning_gym"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    open_dataset.cache_clear()
    with pytest.raises(RecordError, match=r"pip install 'treepo\[reasoning-gym\]'"):
        open_dataset("chain_sum", 0)


def test_entries_as_literals_keep_tuples():
    """JSON would make lists of them, and arc_agi compares boards that are tuples."""
    entry = {"answer": None, "metadata": {"board": ((1, 2), (3,)), "case": Case.LOWER, 1: [0.1, True], "bad": 1e999}}
    read: dict = {}
    exec(f"read.update({as_literals(entry)})", {"read": read})
    assert read == {
        "answer": None,
        "metadata": {"board": ((1, 2), (3,)), "case": "lower", 1: [0.1, True], "bad": "inf"},
    }
