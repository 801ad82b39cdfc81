"""What the README says is so."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from treepo import credit
from treepo.cli.common import split_overrides
from treepo.config.load import resolve
from treepo.config.schema import Config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)", README)) <= targets


@pytest.mark.parametrize("line", re.findall(r"^treepo (?:train|sample|eval) .*$", README, re.MULTILINE))
def test_every_command_names_recipes_and_settings_that_exist(line):
    overrides, rest = split_overrides(line.partition("#")[0].split()[1:])
    for section, values in overrides.items():
        assert values.keys() <= vars(getattr(Config(), section)).keys() | {"use"}
    for argument in rest:
        if argument.startswith("recipes/"):
            assert (ROOT / argument).is_file()


def test_ci_runs_what_the_readme_says():
    script = (ROOT / ".ci" / "run").read_text()
    for target in ("lint", "test", "wheel", "demo"):
        assert f"make {target}" in script
        assert f"make {target}" in README


def test_no_placeholder_is_left():
    """DEMO_TABLE stood in the README of a commit that was tried by a newcomer."""
    assert not re.findall(r"^[A-Z_]{5,}$", README, re.MULTILINE)


def test_every_linked_file_exists():
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path


def test_the_tests_that_the_docs_name_exist():
    """docs/paper.md names a test for each fault of the authors' release."""
    text = (ROOT / "docs" / "paper.md").read_text()
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", text)
    assert len(named) >= 12
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file} has no {test}"


def test_the_table_of_estimators_is_complete():
    """Each estimator, and each of its own settings, stands in docs/credit.md."""
    text = (ROOT / "docs" / "credit.md").read_text()
    exported = [getattr(credit, name) for name in credit.__all__]
    estimators = [cls for cls in exported if is_dataclass(cls)]
    assert len(estimators) >= 9
    for cls in estimators:
        assert f"\n| `{cls.__name__}` |" in text
        for setting in fields(cls):
            assert re.search(rf"(`|credit\.){setting.name}\b", text), f"{cls.__name__}.{setting.name}"


@pytest.mark.parametrize(
    "line", re.findall(r"^treepo train .*$", (ROOT / "docs" / "credit.md").read_text(), re.MULTILINE)
)
def test_the_commands_of_the_table_are_possible(line):
    overrides, _ = split_overrides(line.split()[1:])
    assert resolve(overrides).credit != Config().credit
