"""C kernels, compiled by the system's compiler when they are first needed and kept in the cache folder."""

import ctypes
import hashlib
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from treepo.utils.io import default_cache_folder, is_own, private_folder

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
"""No flag that lets the compiler reorder sums: the same numbers give the same bits in every batch."""

C_TYPES = {"int": ctypes.c_int, "long": ctypes.c_long, "float": ctypes.c_float, "void": None}

PROTOTYPE = re.compile(r"^(void|int|long|float) (\w+)\(([^)]*)\)\s*\{", re.MULTILINE)
"""The head of an exported function: it begins a line, without `static`."""


@dataclass(frozen=True)
class CFunction:
    """A function of a kernel, callable with its parameters by position or by their names in C.

    Arguments are checked against the prototype in the C source: ctypes alone would accept too many.
    """

    function: Any
    parameters: tuple[str, ...]

    def __call__(self, *args: object, **named: object) -> Any:
        if named:
            args += tuple(named.pop(name) for name in self.parameters[len(args) :])
        assert len(args) == len(self.parameters) and not named, f"{self.function.__name__} takes {self.parameters}"
        return self.function(*args)


class Kernels:
    """The exported functions of a compiled C file, as attributes."""

    def __init__(self, library: ctypes.CDLL, source: str) -> None:
        for name, result, parameters in prototypes(source):
            function = library[name]
            function.restype = C_TYPES[result]
            function.argtypes = [kind for kind, _ in parameters]
            setattr(self, name, CFunction(function, tuple(parameter for _, parameter in parameters)))

    def __getattr__(self, name: str) -> CFunction:
        raise AttributeError(f"no function {name!r} is exported")


def prototypes(source: str) -> Iterator[tuple[str, str, list[tuple[Any, str]]]]:
    """(name, type of the result, (ctypes type, name) of each parameter) of the functions that a C file exports."""
    for result, name, listed in PROTOTYPE.findall(re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)):
        parameters = []
        for parameter in listed.split(","):
            kind, star, own = re.fullmatch(r"\s*(?:const )?(\w+) (\*?)(\w+)\s*", parameter).groups()  # type: ignore[union-attr]
            parameters.append((ctypes.c_void_p if star else C_TYPES[kind], own))
        yield name, result, parameters


@cache
def load_kernels(name: str) -> Kernels | None:
    """The functions of a C file of this folder, or None where it cannot be compiled."""
    source = Path(__file__).with_name(name)
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        return None
    for flags in ((*FLAGS, "-fopenmp"), FLAGS):
        library = _load_or_build(source, (compiler, *flags))
        if library is not None:
            return Kernels(library, source.read_text())
    return None


def _load_or_build(source: Path, command: tuple[str, ...]) -> ctypes.CDLL | None:
    """The library in the cache folder, built if it is not there; where nothing can be kept, built for this process."""
    folder = kept = None
    # RuntimeError: the user has no home.
    with suppress(OSError, RuntimeError):
        folder = private_folder(default_cache_folder() / "kernels")
        kept = folder / f"{source.stem}-{_build_key(source, command)}.so"
        if kept.is_file() and is_own(kept):
            return ctypes.CDLL(str(kept))
    if kept is not None:
        # The disk may be full, or the folder on one that is only read.
        with suppress(OSError), tempfile.TemporaryDirectory(dir=folder) as unfinished:
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
