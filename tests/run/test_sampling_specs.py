"""Sampling methods as they are written."""

import pytest

from treepo.config.schema import Settings
from treepo.engine.base import SamplingParams
from treepo.grow.branching import EvenBranching, InitialFork, RandomBranching
from treepo.grow.fallback import NoFallback
from treepo.grow.stopping import StopRules
from treepo.run.sampling_specs import SamplingSpec, parse_sampling
from treepo.tasks.chain_sums import ChainSums

RUN: Settings = {
    "tree": {"width": 8, "depth": 3, "segment_len": 4, "num_children": 2},
    "initial_fork": {"low": 2, "high": 6},
    "stopping": {"answer": "answer"},
}
"""What stands in the run's recipe."""


def read(text: str, num_samples: int = 5) -> SamplingSpec:
    return parse_sampling(text, num_samples, (RUN,))


@pytest.mark.parametrize("text", ["sequential", "greedy", "tree", "tree:depth=2", 'tree:branching.use="EvenBranching"'])
def test_a_method_is_labelled_as_it_was_written(text: str) -> None:
    spec = read(text)
    assert (spec.label, spec.kind) == (text, text.partition(":")[0])


def test_samples_are_the_width_whatever_the_run_trains_with() -> None:
    """A likeliest answer is asked for once."""
    for text, expected in (("sequential", 5), ("tree", 5), ("tree:depth=2", 5), ("greedy", 1)):
        spec = read(text)
        assert spec.num_samples == expected and spec.rules(str, ChainSums.answers).shape.width == expected


def test_only_greedy_takes_the_likeliest_tokens() -> None:
    asked = SamplingParams(0.7, top_k=20)
    assert [read(text).sampling(asked) for text in ("sequential", "tree")] == [asked, asked]
    assert read("greedy").sampling(asked) == SamplingParams(0.0)


def test_every_method_has_the_penalty_of_the_evaluation() -> None:
    layers: Settings = {"eval": {"repetition_penalty": 1.2}}
    for text, temperature in (("sequential", 0.7), ("tree", 0.7), ("greedy", 0.0)):
        sampling = parse_sampling(text, 2, (RUN, layers)).sampling(SamplingParams(0.7))
        assert sampling == SamplingParams(temperature, repetition_penalty=1.2)


def test_sequential_answers_share_nothing_and_are_as_long_as_those_of_trees() -> None:
    """A star: as many first children as samples, and no fork after that."""
    rules, tree = read("sequential").rules(str, ChainSums.answers), read("tree").rules(str, ChainSums.answers)
    assert rules.initial_fork == InitialFork(5, 5) and rules.shape.depth == 1
    assert rules.shape.max_response_tokens == tree.shape.max_response_tokens == 12


def test_a_tree_grows_by_the_settings_of_the_run() -> None:
    rules = read("tree").rules(str, ChainSums.answers)
    assert (rules.shape.depth, rules.shape.segment_len, rules.shape.num_children) == (3, 4, 2)
    assert (rules.initial_fork, rules.branching, rules.stopping) == (
        InitialFork(2, 6),
        EvenBranching(),
        StopRules(answer="answer"),
    )


def test_own_settings_stand_above_the_run_s() -> None:
    """Names without a section are of [tree]; the rest is that of the run."""
    rules = read("tree:depth=6,tree.segment_len=2,initial_fork.low=4,stopping.repetition='never'").rules(
        str, ChainSums.answers
    )
    assert (rules.shape.depth, rules.shape.segment_len, rules.shape.num_children) == (6, 2, 2)
    assert rules.initial_fork == InitialFork(4, 6)
    assert rules.stopping == StopRules(answer="answer", repetition="never")
    assert read("tree").config.tree.depth == 3, "each method has its own settings"


def test_classes_can_be_chosen() -> None:
    """Of a section with `use`, with the class's own settings, in TOML's quotes of either kind."""
    spec = read("tree:branching.use='RandomBranching',branching.low=2,branching.high=3,fallback.use=\"NoFallback\"")
    assert (spec.config.branching, spec.config.fallback) == (RandomBranching(2, 3), NoFallback())
    (misplaced,) = errors("tree:branching.low=2")
    assert "branching.low: unknown setting; EvenBranching has none" in misplaced


def errors(*texts: str) -> list[str]:
    """The message for each text, which names it and is one line."""
    messages = []
    for text in texts:
        with pytest.raises(ValueError, match="^sampling: ") as error:
            read(text)
        messages.append(str(error.value))
        assert repr(text) in messages[-1] and len(messages[-1].splitlines()) == 1
    return messages


@pytest.mark.parametrize("text", ["", "beam", "Tree", " tree", "greedy:depth=2", "sequential:", "depth=2"])
def test_other_kinds_are_refused(text: str) -> None:
    (message,) = errors(text)
    assert "is none of sequential, greedy, tree, tree:KEY=VALUE" in message


@pytest.mark.parametrize(
    "text",
    [
        *("tree:", "tree:depth", "tree:,", "tree:depth=2,"),
        *("tree:width=4", "tree:tree.width=4", "tree:depth=2,width=4"),
        *("tree:depth=2,depth=2", "tree:depth=2,tree.depth=3", "tree:initial_fork.low=1,initial_fork.low=2"),
    ],
)
def test_nothing_is_left_out_given_twice_or_wider_than_the_samples(text: str) -> None:
    """Tables compare methods by --samples, so the width is no setting of one."""
    (message,) = errors(text)
    assert "must be tree:KEY=VALUE,... with settings of [tree] other than width" in message


@pytest.mark.parametrize("name", ["optim.lr", "engine.temperature", "trees.depth", "tree.tree.depth", "a.b.c"])
def test_sections_that_do_not_shape_trees_are_refused(name: str) -> None:
    (message,) = errors(f"tree:{name}=1")
    assert f"{name!r} is no setting of tree, initial_fork, branching, fallback, stopping" in message


@pytest.mark.parametrize("value", ["", "two", "1=2", "[", "'a", "01", "RandomBranching"])
def test_values_are_those_of_toml(value: str) -> None:
    (message,) = errors(f"tree:depth={value}")
    assert f"{value!r} is no value of 'depth'" in message


@pytest.mark.parametrize("value", ["0", "-1", "2.0", "'2'", "true", "nan", "[2]", "{a=1}", "1e3", "1979-05-27"])
def test_values_of_the_wrong_kind_are_refused(value: str) -> None:
    (message,) = errors(f"tree:depth={value}")
    assert ": tree.depth" in message


def test_line_breaks_begin_no_further_settings() -> None:
    """`tree:depth=1` with a line break and `x=3` was read as a TOML document, and the second line was dropped."""
    texts = (
        "tree:depth=1\nx=3",
        "tree:depth=1\n[x]",
        "tree:depth=1\n",
        "tree:de\npth=1",
        "tree:depth=1\r",
        "tree\x1b[2J",
    )
    for message in errors(*texts):
        assert "holds a character that is not printable" in message


def test_line_breaks_that_toml_spells_stay_in_one_line() -> None:
    """An attribute that was not found was quoted as it stands, with its line break."""
    errors(r'tree:branching.use="math:a\nb"', r'tree:branching.use="a\nb"', r'tree:depth="a\nb"', r'tree:"a\nb"=1')


@pytest.mark.parametrize(
    "value", ["[" * 5000, "[" * 5000 + "]" * 5000, "{a=" * 2000, "9" * 5000], ids=["open", "closed", "tables", "digits"]
)
def test_what_the_parser_gives_up_on_is_a_mistake(value: str) -> None:
    """Deep nesting ended in a RecursionError, thousands of digits in an error that did not name `sampling`."""
    (message,) = errors(f"tree:segment_len={value}")
    assert message.endswith("is no value of 'segment_len'")


def test_mistakes_in_the_settings_of_the_run_are_not_those_of_the_method() -> None:
    """The message names the setting of the run."""
    with pytest.raises(ValueError, match="^tree.depth: must be within 1"):
        parse_sampling("tree", 5, ({"tree": {"depth": 0}},))
