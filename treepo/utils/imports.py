"""Where modules are imported from: never the current folder, unless a setting names a module there.

Imports what the interpreter has loaded by itself alone: anything else could come from the current folder still.
"""

import os
import sys


def drop_current_folder() -> list[str]:
    """Take the current folder off `sys.path`, where Python puts it for `python -m`; returns `sys.path` as it was.

    It stays where PYTHONPATH names it by its absolute path, and goes to the end if this package lies in it and may not
    be found elsewhere.
    """
    before = list(sys.path)
    named = [os.path.normpath(e) for e in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(e)]
    try:
        folder = os.getcwd()
    except OSError:
        # It was deleted, and nothing is in it.
        folder = ""
    if folder not in named:
        sys.path[:] = [entry for entry in before if not _is_current(entry, folder)]
        home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        if folder == home and len(sys.path) < len(before):
            sys.path.append(folder)
    return before


def _is_current(entry: str, folder: str) -> bool:
    try:
        return os.path.abspath(entry or os.curdir) == folder
    except OSError:
        return not entry


def make_importable(module: str) -> None:
    """Let a module that a setting names be imported from the current folder, if it lies there and nowhere else.

    From then on the folder stays at the end of `sys.path`, for what the module imports from beside it. Unless a setting
    names a module there, nothing is imported from the current folder.
    """
    # Loaded here, once the current folder is off the path.
    from importlib.machinery import PathFinder  # noqa: PLC0415
    from importlib.util import find_spec  # noqa: PLC0415

    top, folder = module.partition(".")[0], os.getcwd()
    if not top or top in sys.modules or folder in sys.path:
        return
    if find_spec(top) is None and PathFinder.find_spec(top, [folder]) is not None:
        sys.path.append(folder)
