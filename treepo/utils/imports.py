"""Modules that settings name, as in `use = "module:Class"`."""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec


def make_importable(module: str) -> None:
    """Let a module that a setting names be imported from the current folder, if it lies there and nowhere else.

    From then on the folder stays at the end of `sys.path`, for what the module imports from beside it. Unless a setting
    names a module there, nothing is imported from the current folder.
    """
    top, folder = module.partition(".")[0], os.getcwd()
    if not top or top in sys.modules or folder in sys.path:
        return
    if find_spec(top) is None and PathFinder.find_spec(top, [folder]) is not None:
        sys.path.append(folder)
