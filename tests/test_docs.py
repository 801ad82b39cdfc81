"""What README.md and docs/ say is so."""

import json
import re
import shlex
import tomllib
from dataclasses import fields, is_dataclass
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

import pytest

from tests.runs import judge_length
from treepo import credit
from treepo.cli.common import split_overrides
from treepo.cli.main import COMMANDS, main
from treepo.config.load import resolve
from treepo.config.schema import Config
from treepo.tasks.chain_sums import ChainSums

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)", README)) <= targets


def test_ci_runs_what_the_readme_says():
    script = (ROOT / ".ci" / "run").read_text()
    for target in re.findall(r"^make ([a-z]+) ", README, re.MULTILINE):
        assert f"make {target}" in script


def test_no_placeholder_is_left():
    """DEMO_TABLE stood in the README of a commit that was tried by a newcomer."""
    assert not re.findall(r"^[A-Z_]{5,}$", README, re.MULTILINE)


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_can_be_typed(page: Path):
    """Commands in blocks have options, settings and recipes that exist; a strategy that a page names needs no other
    setting: docs/credit.md named one without the length that it needs."""
    text = page.read_text().replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"```\n(.*?)```", text, re.DOTALL))
    for line in re.findall(r"^(?:torchrun .*-m )?treepo ([a-z].*)$", blocks, re.MULTILINE):
        settings, rest = split_overrides(shlex.split(re.sub(r"\[--.*?\]|[>|].*", "", line), comments=True))
        command = import_module(COMMANDS[rest[0]][0])
        options = command.make_parser().parse_intermixed_args(rest[1:])
        recipe = getattr(options, "recipe", None) or ""
        assert (ROOT / recipe).exists() or not recipe.startswith("recipes/"), recipe
        for section, values in settings.items() if rest[0] in {"train", "sample", "eval", "plan"} else ():
            assert values.keys() <= vars(getattr(Config(), section)).keys() | {"use", "weight"}, line
    for code in re.findall(r"`(--\w+\.use \w[^`]*)`", text):
        resolve(split_overrides(shlex.split(code))[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_linked_file_exists(page: Path):
    for path in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / path).exists(), path


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


def test_the_recipe_of_the_readme_resolves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_rewards.py").write_text("def score(response, answer):\n    return 1.0\n")
    monkeypatch.chdir(tmp_path)
    (recipe,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    config = resolve(tomllib.loads(recipe))
    assert config.tree.width == 16 and config.verifier.function == "my_rewards:score"  # pyright: ignore[reportAttributeAccessIssue]


def test_every_metric_of_a_run_is_on_the_page_of_metrics(
    chain_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Metrics and their page are compared both ways, but for those that only other settings have."""
    monkeypatch.setattr(ChainSums, "verify", judge_length)
    sizes = ["--train.num_steps", "1", "--train.prompts_per_step", "2", "--eval.num_problems", "4", "--tree.width", "4"]
    main(["train", "--model.path", str(chain_model), *sizes, "--out", str(tmp_path / "run")])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    found = {name for line in lines for name in json.loads(line)} - {"step"}
    documented = documented_metrics((ROOT / "docs" / "metrics.md").read_text())
    assert [name for name in sorted(found) if not any(fnmatch(name, pattern) for pattern in documented)] == []
    prefixes = {name.partition("/")[0] for name in found}
    elsewhere = {"verify", "plan", "turns", "environment"}
    assert {pattern.partition("/")[0] for pattern in documented} <= prefixes | elsewhere


def documented_metrics(page: str) -> set[str]:
    """Names in the first column of the page's tables; `.../min` stands for the same folder as the name before it."""
    patterns: set[str] = set()
    for cell in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE):
        last = ""
        for name in re.findall(r"`([^`]+)`", cell):
            last = f"{last.rpartition('/')[0]}/{name.removeprefix('.../')}" if name.startswith(".../") else name
            patterns.add(last)
    return patterns


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
    estimators = [
        cls for cls in exported if is_dataclass(cls) and hasattr(cls, "per_node") and cls is not credit.Advantages
    ]
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
