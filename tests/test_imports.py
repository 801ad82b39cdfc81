"""The edges between the folders, and how light an import is."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick

PACKAGE = Path(__file__).parent.parent / "treepo"

FLOORS = (
    ("cli", "bench", "__main__"),
    ("trainer", "integrations"),
    ("run",),
    ("config",),
    ("learn", "evaluate", "report"),
    ("plan",),
    ("grow", "tasks", "envs"),
    ("data", "verify"),
    ("engine", "credit"),
    ("model",),
    ("tree", "errors", "distributed", "utils", ""),
)
"""Folders, and modules at the root, from the roof down; "" is the package's own face. Imports point down."""

BESIDE = {
    ("__main__", "cli"),
    ("cli", "bench"),
    ("report", "evaluate"),
    ("verify", "data"),
    ("grow", "envs"),
    ("tasks", "envs"),
    ("distributed", "errors"),
    ("distributed", "utils"),
    ("utils", "errors"),
    ("tree", "report"),
}
"""Imports within a floor, and the one that points up: a tree shows itself through the report, loaded when asked."""


def name_of(path: Path) -> str:
    parts = ("treepo", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


FILES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


@cache
def imported(module: str, with_functions: bool = True) -> frozenset[str]:
    """The modules of ours that a file imports; with_functions: those that its functions import, too."""
    tree, found = ast.parse(FILES[module].read_text()), set()
    for node in ast.walk(tree) if with_functions else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return frozenset(found & FILES.keys() - {module})


def folder_of(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def test_folders_import_only_what_lies_below_them():
    floor_of = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}
    assert {folder_of(module) for module in FILES} == floor_of.keys()
    for module in FILES:
        # The package's own face loads whatever is asked for.
        for other in imported(module) - {"treepo"} if module != "treepo" else ():
            edge = folder_of(module), folder_of(other)
            is_down = floor_of[edge[0]] < floor_of[edge[1]]
            assert edge[0] == edge[1] or is_down or edge in BESIDE, f"{module} imports {other}"


def test_no_imports_in_a_circle_and_no_long_chains():
    """From any file at most 12 files deep, and at most 15 of ours imported by one."""

    @cache
    def depth(module: str) -> int:
        return 1 + max((depth(other) for other in imported(module, with_functions=False)), default=0)

    for module in FILES:
        assert depth(module) <= 12, module
        assert len(imported(module) - {"treepo"}) <= 15, module


def test_trees_and_engines_meet_in_growing_alone():
    """Engines never see a tree; credit, packing and the losses never see an engine."""
    for module in FILES:
        folders = {folder_of(other) for other in imported(module)}
        if folder_of(module) == "engine":
            assert not folders & {"tree", "grow"}, module
        if folder_of(module) == "credit" or module in {
            "treepo.learn.trie",
            "treepo.learn.packing",
            "treepo.learn.losses",
        }:
            assert not folders & {"grow", "engine"}, module


def test_every_public_name_is_offered_and_loaded_when_it_is_asked_for():
    """`import treepo` alone loads nothing of numpy; type checkers find py.typed."""
    check = (
        "import sys, treepo; before = {'numpy', 'torch'} & set(sys.modules)\n"
        "names = treepo.__all__; missing = [n for n in names if getattr(treepo, n, None) is None]\n"
        "print(before, missing, {*names} - {*dir(treepo)})"
    )
    printed = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set() [] set()"
    assert (PACKAGE / "py.typed").is_file()


def test_what_runs_inside_verl_needs_no_transformers():
    """verl allows only versions of transformers that are older than those which the rest of the package needs."""
    waiting, seen = [m for m in FILES if m.startswith("treepo.integrations.verl")], set()
    while waiting:
        module = waiting.pop()
        seen.add(module)
        parents = {module.rsplit(".", i)[0] for i in range(1, module.count(".") + 1)}
        waiting += (imported(module, with_functions=False) | parents) - seen
    for module in seen:
        for node in ast.parse(FILES[module].read_text()).body:
            names = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            )
            assert not any(name.split(".")[0] == "transformers" for name in names), module


@pytest.mark.parametrize(
    "code",
    [
        "import treepo",
        "import treepo.config.schema",
        "import treepo.verify, treepo.data.datasets",
        "import treepo.tree, treepo.grow, treepo.credit",
    ],
)
def test_imports_are_light(code):
    """Neither torch nor transformers is loaded by what only settings, problems and verdicts need."""
    check = f"{code}\nimport sys; print([m for m in ('torch', 'vllm', 'transformers', 'sympy') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
