"""Where problems come from, as one string."""

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.data.datasets import load_datasets
from treepo.data.formats import RecordFormat
from treepo.data.sources import PRESETS, Source, dataset_names, labels, parse_source


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("org/name", Source("org/name")),
        ("org/name@test", Source("org/name", split="test")),
        ("org/name#main@test", Source("org/name", split="test", config="main")),
        ("gsm8k=org/name#main", Source("org/name", "gsm8k", config="main")),
        ("math=org/name/folder@dev", Source("org/name/folder", "math", "dev")),
        ("gsm8k", Source("openai/gsm8k", "gsm8k", "train", "main")),
        ("gsm8k@test", Source("openai/gsm8k", "gsm8k", "test", "main")),
        ("gsm8k#socratic@test", Source("openai/gsm8k", "gsm8k", "test", "socratic")),
        ("olympiad", Source("Hothan/OlympiadBench", "olympiad", "train", "OE_TO_maths_en_COMP")),
    ],
)
def test_parts_of_a_source(text, source):
    assert parse_source(text) == source


def test_every_known_set_is_a_place_on_the_hub():
    for name, known in PRESETS.items():
        assert parse_source(name) == Source(known.hub, name, known.split, known.config)
        assert parse_source(f"{name}={known.hub}") == Source(known.hub, name)


@pytest.mark.parametrize("name", ["a=b.jsonl", "gsm8k=x.jsonl", "a@b.jsonl", "a#b@c.jsonl", "gsm8k", "x=y@z#w"])
def test_a_path_that_exists_is_taken_as_it_stands(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("{}")
    assert parse_source(name) == Source(name)
    assert parse_source(f"gsm8k={name}") == Source(name, "gsm8k")


def test_signs_in_a_folders_name_are_kept_before_a_split(tmp_path):
    folder = tmp_path / "a=b#c@d"
    folder.mkdir()
    assert parse_source(f"{folder}@train") == Source(str(folder), split="train")
    assert parse_source(f"math500={folder}@train") == Source(str(folder), "math500", "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gsm=a.jsonl", r"data.train: no format 'gsm'; there are \['aime24', 'aime25', 'amc23', 'dapo17k'"),
        ("gsm8", r"data.train: cannot read 'gsm8': no such file or folder, and no such dataset; there are \['aime24'"),
        ("missing.jsonl", "data.train: cannot read 'missing.jsonl': no such file or folder"),
        ("some/missing.parquet", "data.train: cannot read 'some/missing.parquet': no such file or folder"),
        ("./some/folder", "data.train: cannot read './some/folder': no such file or folder"),
        ("gsm8k=math500", "data.train: cannot read 'math500': no such file or folder, and no org/name of the hub"),
        ("gsm8k=", "data.train: names no file, folder or dataset, got 'gsm8k='"),
        ("@train", "data.train: names no file, folder or dataset, got '@train'"),
        ("", "data.train: names no file, folder or dataset, got ''"),
        ("a" * 10_000, "data.train: cannot read 'aaa"),
    ],
)
def test_what_is_no_source_is_said(text, message):
    with pytest.raises(ValueError, match=message):
        parse_source(text)


def test_a_file_has_no_splits(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("{}")
    with pytest.raises(ValueError, match=f"data.eval: '{path}' is a file, which has no splits, got 'test'"):
        parse_source(f"{path}@test", "data.eval")


def test_labels_are_as_long_as_it_takes(tmp_path):
    names = ["a/x/train.jsonl", "b/x/train.jsonl", "b/y/train.jsonl", "test.jsonl"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    sources = [parse_source(str(tmp_path / name)) for name in names] + [parse_source("gsm8k")]
    assert labels(sources) == ["a/x/train.jsonl", "b/x/train.jsonl", "y/train.jsonl", "test.jsonl", str(sources[-1])]
    assert dataset_names(sources) == ["a/x/train.jsonl", "b/x/train.jsonl", "y/train.jsonl", "test", "gsm8k"]
    assert labels(sources[:1]) == ["train.jsonl"]


def test_two_spellings_of_a_path_have_one_label(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text("{}")
    assert labels([parse_source("p.jsonl"), parse_source(f"{tmp_path}/./p.jsonl")]) == ["p.jsonl", "p.jsonl"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a file `n` in every folder that up to three of a and b name."""
    folder = tmp_path_factory.mktemp("root")
    for depth in range(4):
        for names in product("ab", repeat=depth):
            (folder / Path(*names)).mkdir(exist_ok=True)
            (folder / Path(*names) / "n").write_text("{}")
    return folder


@settings(max_examples=60, deadline=None)
@given(paths=st.lists(st.lists(st.sampled_from("ab"), max_size=3), unique_by=tuple, max_size=6))
def test_labels_tell_all_sources_apart_in_any_order(root, paths):
    """A label is an end of its own path, of no other's, and no shorter one would do."""
    sources = [Source(str(root.joinpath(*path, "n"))) for path in paths]
    names = labels(sources)
    assert labels(sources[::-1]) == names[::-1]
    for source, label in zip(sources, names, strict=True):
        others = [other.where for other in sources if other != source]
        assert source.where.endswith(f"/{label}")
        assert not any(other.endswith(f"/{label}") for other in others)
        _, _, shorter = label.partition("/")
        assert not shorter or any(other.endswith(f"/{shorter}") for other in others)


def test_a_pattern_is_one_dataset_of_all_its_files(tmp_path, monkeypatch):
    """In the order of their names; files of other kinds are passed over."""
    for name in ("b", "a", "deep/c"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / f"{name}.jsonl").write_text(f'{{"prompt": "{name}", "answer": 1}}\n')
    (tmp_path / "data" / "notes.txt").write_text("no records")
    monkeypatch.chdir(tmp_path)
    for pattern, found, name in (
        ("data/*.jsonl", ["a", "b"], "data"),
        ("data/*", ["a", "b"], "data"),
        ("data/**/*.jsonl", ["a", "b", "deep/c"], "data"),
        ("./data/[ab].jsonl", ["a", "b"], "[ab]"),
        (f"{tmp_path}/d*/deep/c*.jsonl", ["deep/c"], "c*"),
    ):
        (dataset,) = load_datasets([pattern], RecordFormat(), lambda text: list(text.encode()), 100).datasets
        assert [p.prompt for p in dataset.problems] == found
        assert dataset.name == name
    (dataset,) = load_datasets(["data/*.jsonl"], RecordFormat(), lambda _: [1], 100).datasets
    assert [p.id for p in dataset.problems] == ["*.jsonl/a.jsonl:1", "*.jsonl/b.jsonl:1"]
    assert parse_source("gsm8k=data/*.jsonl") == Source("data/*.jsonl", "gsm8k")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none/*.jsonl", r"no file that ends in \.jsonl, .* matches the pattern, got 'none/\*.jsonl'"),
        ("*.txt", r"no file that ends in .* matches the pattern"),
        ("*.jsonl@train", "is a pattern of files, which has no splits, got 'train'"),
        ("nul\0*.jsonl", "matches the pattern"),
    ],
)
def test_a_pattern_without_files_is_said(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text("{}")
    (tmp_path / "p.txt").write_text("{}")
    with pytest.raises(ValueError, match=message):
        parse_source(text)


def test_a_path_with_the_signs_of_a_pattern_is_a_path(tmp_path):
    (tmp_path / "p[1].jsonl").write_text("{}")
    assert not parse_source(str(tmp_path / "p[1].jsonl")).is_pattern
    with pytest.raises(ValueError, match="is given twice"):
        load_datasets([f"{tmp_path}/p*", f"{tmp_path}/./p*"], RecordFormat(), lambda _: [1], 9)
