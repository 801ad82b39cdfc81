"""C kernels, compiled by the system's compiler when they are first needed and kept in the cache folder."""

import ctypes
import hashlib
import platform
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from treepo.utils.io import default_cache_folder, is_own, private_folder

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
"""No flag that lets the compiler reorder sums: the same numbers give the same bits in every batch."""

C_TYPES = {"int": ctypes.c_int, "long": ctypes.c_long, "float": ctypes.c_float, "void": None}

PROTOTYPE = re.compile(r"^(void|int|long|float) (\w+)\(([^)]*)\)\s*\{", re.MULTILINE)
"""The head of an exported function: it begins a line, without `static`."""

PARAMETER = re.compile(r"(?:const )?(\w+) (\*?)(\w+)")


def prototypes(source: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return name -> (type of the result, type of each parameter by name) of the functions that a C file exports."""
    found = {}
    for result, name, listed in PROTOTYPE.findall(re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)):
        parameters = [PARAMETER.fullmatch(text.strip()).groups() for text in listed.split(",")]  # type: ignore[union-attr]
        types = {own: ctypes.c_void_p if star else C_TYPES[kind] for kind, star, own in parameters}
        found[name] = C_TYPES[result], types
    return found


@cache
def load_kernels(name: str) -> SimpleNamespace | None:
    """Return the functions of a C file of this folder, or None where it cannot be compiled.

    They take their parameters by position or by their names in C, and raise TypeError where one is missing or too many.
    """
    source = Path(__file__).with_name(name)
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        return None
    library = _load_or_build(source, (compiler, *FLAGS, "-fopenmp")) or _load_or_build(source, (compiler, *FLAGS))
    if library is None:
        return None
    # With names given, ctypes checks the number of arguments, too.
    functions = {
        name: ctypes.CFUNCTYPE(result, *types.values())((name, library), tuple((1, own) for own in types))
        for name, (result, types) in prototypes(source.read_text()).items()
    }
    return SimpleNamespace(**functions)


def _load_or_build(source: Path, command: tuple[str, ...]) -> ctypes.CDLL | None:
    """The library in the cache folder, built if it is not there; where nothing can be kept, built for this process."""
    # RuntimeError: the user has no home. OSError: the disk may be full, or the folder on one that is only read.
    with suppress(OSError, RuntimeError):
        folder = private_folder(default_cache_folder() / "kernels")
        kept = folder / f"{source.stem}-{_build_key(source, command)}.so"
        # A damaged library is built anew.
        with suppress(OSError):
            if kept.is_file() and is_own(kept):
                return ctypes.CDLL(str(kept))
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            if (built := _build(source, command, Path(unfinished))) is not None:
                library = ctypes.CDLL(str(built))
                # Processes that build at the same time replace each other's library by an equal one.
                built.replace(kept)
                return library
    with tempfile.TemporaryDirectory() as unfinished:
        built = _build(source, command, Path(unfinished))
        return None if built is None else ctypes.CDLL(str(built))


def _build(source: Path, command: tuple[str, ...], folder: Path) -> Path | None:
    built = folder / f"{source.stem}.so"
    arguments = [*command, str(source), "-o", str(built), "-lm"]
    if subprocess.run(arguments, capture_output=True, check=False).returncode != 0:  # noqa: S603 - a fixed command
        return None
    built.chmod(0o700)
    return built


def _build_key(source: Path, command: tuple[str, ...]) -> str:
    """A digest of all that the machine code depends on: sources, compiler and its version, flags, processor."""
    version = subprocess.run([command[0], "--version"], capture_output=True, check=False).stdout  # noqa: S603
    sources = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
    parts = [*sources, version, repr(command).encode(), _processor().encode()]
    return hashlib.blake2b(b"".join(hashlib.blake2b(part).digest() for part in parts), digest_size=16).hexdigest()


def _processor() -> str:
    """The processor's model and what it can do, which -march=native compiles for."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    names = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features", "CPU ")
    return "\n".join([platform.machine(), *(line for line in lines if line.startswith(names))])
