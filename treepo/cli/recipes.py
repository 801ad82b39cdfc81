"""`treepo recipes`: lists the recipes and examples that come with the package, and copies one."""

import ast
import json
from argparse import Namespace
from pathlib import Path

from rich.console import Console

import treepo
from treepo.cli.common import CommandParser
from treepo.errors import SettingError

ABOUT = """List the recipes and examples that come with treepo, or copy one to change it: a recipe (.toml) is for
`treepo train FILE`, an example (.py) for `python FILE`. A file that is there already stays as it is."""

FOLDERS = {"recipes": ("*.toml",), "examples": ("*.py", "*.ipynb")}
"""The folders that hold them, and which of their files they are."""


def make_parser() -> CommandParser:
    """The options of the command."""
    parser = CommandParser("recipes", ABOUT)
    parser.add_argument("name", nargs="?", metavar="NAME", help="recipe or example to copy (default: list all)")
    parser.add_argument("folder", nargs="?", metavar="DIR", help="folder to copy it into (default: the current one)")
    return parser


def run(options: Namespace, console: Console) -> None:
    """List, or copy. Raises SettingError for a name that there is not, or a file that is there already."""
    if options.settings:
        raise SettingError(next(iter(options.settings)), "recipes has no settings; give them to treepo train")
    files = shipped_files()
    if options.name is None:
        width = max(len(path.name) for path in files)
        for path in files:
            show(console, f"{path.name:<{width}}  {first_line(path)}")
        return
    show(console, str(copied(find(options.name, files), Path(options.folder or "."))))


def show(console: Console, line: str) -> None:
    """Print one line as it is, however long it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def shipped_files() -> list[Path]:
    """The recipes, then the examples, each by name: inside the installed package, or beside it in a clone."""
    package = Path(treepo.__file__).parent
    home = package if (package / "recipes").is_dir() else package.parent
    return [path for folder, kinds in FOLDERS.items() for kind in kinds for path in sorted((home / folder).glob(kind))]


def first_line(path: Path) -> str:
    """What a file says first about itself: in its first comment, docstring or cell of text."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    elif path.suffix == ".ipynb":
        text = "".join(json.loads(text)["cells"][0]["source"])
    return text.partition("\n")[0].lstrip("# ")


def find(name: str, files: list[Path]) -> Path:
    """The file of that name, with or without its suffix; raises SettingError."""
    for path in files:
        if name in (path.name, path.stem):
            return path
    raise SettingError("name", f"no {name!r}; there are {', '.join(path.stem for path in files)}")


def copied(path: Path, folder: Path) -> Path:
    """Copy a file into a folder, made if it is not there, and return where it is now.

    Raises SettingError if it is there already or the folder is none, WriteError if the disk has no room.
    """
    from treepo.utils.io import create_text, preparing

    out = folder / path.name
    with preparing(out, "folder"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            create_text(out, path.read_text(encoding="utf-8"))
        except FileExistsError as error:
            raise SettingError("folder", "that file is there already", str(out)) from error
    return out
