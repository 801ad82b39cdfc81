"""The edges between the rooms."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "treepo"

MAY_IMPORT = {
    "tree": set(),
    "seeds": set(),
    "files": set(),
    "printable": set(),
    "interrupts": set(),
    "processes": {"interrupts"},
    "launch": {"processes", "settings"},
    "task": {"seeds", "task"},
    "engine": {"seeds", "engine", "model"},
    "model": {"model"},
    "grow": {"tree", "seeds", "task", "engine", "grow"},
    "credit": {"tree", "credit"},
    "learn": {"tree", "seeds", "task", "engine", "model", "grow", "credit", "learn", "files", "processes"},
    "evaluate": {"tree", "seeds", "task", "engine", "grow", "evaluate", "printable", "files", "processes"},
    "settings": {"task", "model", "engine", "credit", "grow", "learn"},
    "config": {"settings"},
    "report": {"tree", "report", "credit", "task", "printable", "files"},
    "build_engine": {"engine", "model", "settings", "processes"},
    "bench": {
        *("tree", "seeds", "task", "engine", "model", "grow", "learn"),
        *("settings", "config", "build_engine", "build", "bench"),
    },
    "sample": {"tree", "seeds", "task", "model", "grow", "settings", "config", "build", "report"},
}
"""Each room and the rooms it may import; the rest (build, run, cli) may import everything."""


def imported_rooms(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module or "")
    return {m.split(".")[1] for m in modules if m.startswith("treepo.")}


def test_rooms_import_only_what_lies_below_them():
    checked = 0
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in MAY_IMPORT:
            assert imported_rooms(path) <= MAY_IMPORT[room], path
            checked += 1
    assert checked > 30


def test_trees_and_engines_meet_in_growing_alone():
    """Engines never see a tree; credit, packing and the loss never see an engine."""
    packing = [PACKAGE / "learn" / f"{name}.py" for name in ("distinct", "packing", "batches")]
    for path in [*(PACKAGE / "engine").rglob("*.py"), *packing, *(PACKAGE / "learn" / "loss").rglob("*.py")]:
        forbidden = {"grow", "engine"} if "learn" in path.parts else {"tree", "grow"}
        assert not imported_rooms(path) & forbidden, path


def test_importing_treepo_is_light():
    """`import treepo` loads neither torch nor vllm nor transformers."""
    code = "import sys, treepo; print([m for m in ('torch', 'vllm', 'transformers') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_files_and_functions_stay_short():
    """No file over 300 lines, no function over 60."""
    for path in [p for kind in ("*.py", "*.c", "*.h") for p in PACKAGE.rglob(kind)]:
        text = path.read_text()
        assert text.count("\n") <= 300, path
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}:{node.name}"
