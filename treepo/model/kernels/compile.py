"""C files of this package, built by the system's compiler when they are first needed."""

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
"""No flag that lets the compiler reorder sums: the same numbers give the same bits in every batch."""


@cache
def load_library(name: str) -> ctypes.CDLL | None:
    """The compiled file, or None where it cannot be built; kept for the life of the process."""
    source = Path(__file__).with_name(name)
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / f"{source.stem}.so"
        for openmp in (["-fopenmp"], []):
            command = [compiler, *FLAGS, *openmp, str(source), "-o", str(library), "-lm"]
            built = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - a fixed command
            if built.returncode == 0:
                return ctypes.CDLL(str(library))
    return None
