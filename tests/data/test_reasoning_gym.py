"""Problems of reasoning-gym: those of the library itself, in an order without end."""

import ast
from dataclasses import fields, replace
from typing import get_type_hints
from urllib.parse import quote

import pytest
from pydantic import TypeAdapter

reasoning_gym = pytest.importorskip("reasoning_gym")

from reasoning_gym.algorithmic.word_sorting import TextTransformation  # noqa: E402
from reasoning_gym.factory import DATASETS  # noqa: E402
from reasoning_gym.utils import SYSTEM_PROMPTS  # noqa: E402

from treepo.config.libraries import REASONING_GYM  # noqa: E402
from treepo.data.datasets import Dataset, DatasetTask, load_datasets, split_train_eval  # noqa: E402
from treepo.data.endless import EndlessDataset  # noqa: E402
from treepo.data.formats import RecordFormat  # noqa: E402
from treepo.data.problem import text_key  # noqa: E402
from treepo.data.reasoning_gym import OWN_SETTINGS, GymSource, read_options  # noqa: E402
from treepo.errors import SettingError  # noqa: E402

SUMS = "chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=1"
"""Sums and differences of two digits: a few hundred questions."""


def endless(spec: str, seed: int = 1, max_prompt_len: int = 10_000) -> EndlessDataset:
    source = GymSource.of(f"reasoning_gym:{spec}")
    return EndlessDataset(source.format, source, seed, lambda text: list(str(text).encode()), max_prompt_len, 10**6)


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("chain_sum", {}),
        (
            "basic_arithmetic?min_terms=2&max_terms=2&operators=+,-",
            {"min_terms": 2, "max_terms": 2, "operators": ["+", "-"]},
        ),
        ("word_sorting?transformation=uppercase", {"transformation": TextTransformation.UPPERCASE}),
        ("gsm_symbolic", {}),
        ("list_functions", {}),
    ],
)
def test_problems_are_those_of_create_dataset(spec, options):
    """Question, answer and metadata are the library's own, for the seed and the index in a problem's columns."""
    for problem in endless(spec).problems([0, 1, 499, 500, 1234]):
        columns = problem.columns
        made = reasoning_gym.create_dataset(problem.dataset, seed=columns["seed"], size=500, **options)
        entry = made[columns["index"]]
        assert (problem.prompt, problem.ground_truth) == (entry["question"], entry["answer"])
        assert problem.prompt_ids == tuple(entry["question"].encode())
        assert columns["reasoning_gym"] == spec
        assert ast.literal_eval(columns["entry"])["answer"] == entry["answer"]


def test_a_problem_depends_on_seed_and_position_alone():
    dataset = endless("chain_sum")
    together = dataset.problems(range(490, 510))
    assert [endless("chain_sum").problems([i])[0] for i in (509, 490)] == [together[-1], together[0]]
    assert len({p.id for p in together}) == len({p.prompt for p in together}) == 20
    assert endless("chain_sum", seed=2).problems([490]) != together[:1]


def test_no_held_out_question_is_trained_on():
    """Of a few hundred questions 60 are held out; in 300 others none of them comes up."""
    (train,), (held_out,) = split_train_eval([endless(SUMS)], eval_seed=5, eval_size=60)
    questions = {text_key(p.prompt) for p in held_out.problems}
    assert len(held_out.problems) == len(questions) == 60
    assert isinstance(train, EndlessDataset)
    asked = {text_key(p.prompt) for p in train.problems(range(300))}
    assert not asked & questions
    assert {text_key(p.prompt) for p in endless(SUMS).problems(range(300))} & questions


def test_evaluation_datasets_of_their_own_are_held_out_too():
    held_out = Dataset("given", endless(SUMS, seed=9).first(50))
    (train,), evaluation = split_train_eval([endless(SUMS)], [held_out])
    assert evaluation == (held_out,)
    assert isinstance(train, EndlessDataset)
    assert not {p.prompt for p in train.problems(range(200))} & {p.prompt for p in held_out.problems}


def test_prompts_that_are_too_long_are_passed_over_for_others_at_the_same_position(caplog):
    """The problems that fit stay where they are."""
    all_problems, limit = endless("chain_sum?max_terms=6").problems(range(40)), 80
    short = replace(endless("chain_sum?max_terms=6"), max_prompt_len=limit)
    found = short.problems(range(40))
    assert all(len(p.prompt_ids) <= limit for p in found)
    fits = [len(p.prompt_ids) <= limit for p in all_problems]
    assert 0 < sum(fits) < 40
    assert all(one == other for one, other, fit in zip(found, all_problems, fits, strict=True) if fit)
    short.log_passed_over(40)
    assert "passed over" in caplog.text
    assert f"prompts of more than {limit} tokens (data.max_prompt_len)" in caplog.text


def test_a_dataset_of_which_nothing_is_left_says_why():
    with pytest.raises(SettingError, match=r"none of 100 problems can be asked: 100 prompts of more than 5 tokens"):
        endless("chain_sum", max_prompt_len=5).problems([0])
    everything = endless("coin_flip?min_trials=1&max_trials=1")
    held_out = frozenset(text_key(p.prompt) for p in everything.problems(range(300)))
    with pytest.raises(SettingError, match=r"100 held out \(data.eval_size\)"):
        replace(everything, held_out=held_out).problems([0])
    assert 0 < len(everything.first(500)) == len(held_out) < 500


def test_mixtures_have_their_proportions():
    """Three to one over blocks of 64, with a file and without weights all alike; each dataset in its own order."""
    sums, words = endless("chain_sum"), endless("word_sorting")
    task = DatasetTask((sums, words), (), weights=(3.0, 1.0))
    asked = task.training_problems(0, 128)
    assert [p.dataset for p in asked].count("chain_sum") == 96
    assert [p for p in asked if p.dataset == "chain_sum"] == sums.problems(range(96))
    assert task.training_problems(3, 32) == asked[96:]
    fixed = Dataset("file", tuple(words.problems(range(900, 910))))
    even = DatasetTask((sums, fixed), ()).training_problems(0, 64)
    assert sum(p in fixed.problems for p in even) == 32


def test_sources_are_loaded_as_other_datasets_are():
    form = RecordFormat()
    load = lambda *given, **more: load_datasets(given, form, lambda text: [1], 100, **more)  # noqa: E731
    (train,) = load("reasoning_gym:ab", seed=3).datasets
    assert isinstance(train, EndlessDataset)
    (held_out,) = load("reasoning_gym:ab", seed=3, endless_size=7).datasets
    assert isinstance(held_out, Dataset) and held_out.problems == train.first(7)
    with pytest.raises(SettingError, match=r"^data.train: no dataset 'chain_sums' in .*did you mean chain_sum"):
        load("reasoning_gym:chain_sums")
    with pytest.raises(SettingError, match="option 'max_terms'"):
        load("reasoning_gym:chain_sum?max_terms=x")
    with pytest.raises(SettingError, match=r"the library refuses these options .*max_terms must be >= min_terms"):
        load("reasoning_gym:chain_sum?max_terms=2&min_terms=3")
    with pytest.raises(SettingError, match="no dataset 'composite'"):
        load("reasoning_gym:composite")


def test_problems_that_depend_on_hashes_are_refused(monkeypatch):
    """A run could not be resumed: in the next process its problems are others."""
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(SettingError, match="start with PYTHONHASHSEED=0"):
        load_datasets(["reasoning_gym:ransom_note"], RecordFormat(), lambda text: [1], 100)
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    load_datasets(["reasoning_gym:ransom_note"], RecordFormat(), lambda text: [1], 100)


def test_every_default_can_be_written_as_an_option():
    """About 450 options of all datasets, each as JSON writes its default."""
    num_read = 0
    for name, (_, config) in DATASETS.items():
        default, hints = config(), get_type_hints(config)
        for f in fields(config):
            value = getattr(default, f.name)
            if name == "composite" or f.name in OWN_SETTINGS or "BoardFormattingOptions" in str(hints[f.name]):
                continue
            text = value if isinstance(value, str) else TypeAdapter(type(value)).dump_json(value).decode().strip('"')
            read = read_options(config, f"{f.name}={quote(text)}")[f.name]
            assert read == value or list(read) == list(value), (name, f.name)
            num_read += 1
    assert num_read > 400


def test_the_system_prompt_is_the_librarys():
    assert REASONING_GYM["prompt"]["system"] == SYSTEM_PROMPTS["default"]
