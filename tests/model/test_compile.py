"""C kernels: bound as their source declares them, compiled once, loaded only from a folder of the user's own."""

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from treepo.model.kernels import compile as module
from treepo.model.kernels.compile import load_kernels, prototypes

pytestmark = pytest.mark.skipif(load_kernels("decode_attention.c") is None, reason="no C compiler here")

SOURCES = Path(module.__file__).parent
LOAD = "from treepo.model.kernels.compile import load_kernels; assert load_kernels('decode_attention.c')"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where kernels are kept during a test; nothing that was loaded before counts."""
    monkeypatch.setenv("TREEPO_CACHE", str(tmp_path / "cache"))
    load_kernels.cache_clear()
    yield tmp_path / "cache" / "kernels"
    load_kernels.cache_clear()


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was compiled."""
    built, build = [], module._build

    def counting(source: Path, command: tuple[str, ...], folder: Path) -> Path | None:
        built.append(source)
        return build(source, command, folder)

    monkeypatch.setattr(module, "_build", counting)
    return built


def load() -> None:
    """As a new process does."""
    load_kernels.cache_clear()
    kernels = load_kernels("decode_attention.c")
    assert kernels is not None
    x = (ctypes.c_float * 8)()
    kernels.gate(N=1, D=8, stride=8, gate=x, up=x, output=x)


def test_prototypes_are_those_of_the_source() -> None:
    """Types and names; helpers of the file are not exported."""
    found = {name: (result, list(types.items())) for name, (result, types) in prototypes(SOURCE).items()}
    assert found == {
        "scale": (None, [("n", ctypes.c_long), ("by", ctypes.c_float), ("x", ctypes.c_void_p)]),
        "total": (ctypes.c_float, [("n", ctypes.c_int), ("x", ctypes.c_void_p)]),
    }


SOURCE = """
/* void old(int n) { } */
static float helper(float x) { return x; }
void scale(long n, float by, /* in
place */ float *x) {
    for (long i = 0; i < n; i++) x[i] *= by;
}
float total(int n, const float *x) { return helper(x[n - 1]); }
"""


@pytest.mark.parametrize("name", ["decode_attention.c", "tree_attention.c"])
def test_every_exported_function_is_bound(name: str) -> None:
    """The symbols of the library are the functions that were found in its source."""
    kernels = load_kernels(name)
    assert kernels is not None
    source = (SOURCES / name).read_text()
    exported = {line.split("(")[0].split()[-1] for line in source.splitlines() if line.startswith(("void ", "long "))}
    assert exported == prototypes(source).keys() == vars(kernels).keys()


def test_arguments_are_checked_against_the_prototype() -> None:
    """Bug that this prevents: ctypes accepts more arguments than a function has, and shifts none of them."""
    kernels = load_kernels("decode_attention.c")
    assert kernels is not None
    x = (ctypes.c_float * 8)()
    for arguments in ((1, 8, 8, x, x), (1, 8, 8, x, x, x, x)):
        with pytest.raises(TypeError, match="missing|takes"):
            kernels.gate(*arguments)
    with pytest.raises(TypeError, match="'up' missing"):
        kernels.gate(1, 8, 8, gate=x, output=x)
    with pytest.raises(TypeError, match="takes"):
        kernels.gate(1, 8, 8, gate=x, up=x, output=x, down=x)
    with pytest.raises(ctypes.ArgumentError):
        kernels.gate(1, 8.0, 8, x, x, x)
    kernels.gate(1, 8, 8, up=x, gate=x, output=x)


def test_kernels_are_compiled_once(folder: Path, builds: list[Path]) -> None:
    """A second process loads what the first one kept; folder and library are the user's alone."""
    load()
    load()
    assert len(builds) == 1
    [library] = folder.iterdir()
    assert folder.stat().st_mode & 0o777 == library.stat().st_mode & 0o777 == 0o700


def test_other_flags_processors_and_compilers_have_other_libraries(
    folder: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines that share a home may differ."""
    load()
    monkeypatch.setattr(module, "_processor", lambda: "another one")
    load()
    monkeypatch.setattr(module, "FLAGS", (*module.FLAGS, "-DNOTHING"))
    load()
    assert len(builds) == len(list(folder.iterdir())) == 3


def test_a_damaged_library_is_compiled_anew(folder: Path, builds: list[Path]) -> None:
    """Such as one that a full disk cut off."""
    load()
    [library] = folder.iterdir()
    # Not in place: this process has loaded it, and would be killed as it ends.
    library.unlink()
    library.write_bytes(b"")
    load()
    assert len(builds) == 2
    assert library.stat().st_size > 0


def test_a_library_that_others_may_write_is_not_loaded(folder: Path, builds: list[Path]) -> None:
    """Nor one that lies where others may write: then nothing is kept, and it is compiled for the process."""
    load()
    [library] = folder.iterdir()
    library.chmod(0o777)
    load()
    assert len(builds) == 2
    assert library.stat().st_mode & 0o777 == 0o700
    folder.parent.chmod(0o777)
    load()
    assert len(builds) == 3


def test_without_a_folder_kernels_are_compiled_for_the_process(
    tmp_path: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache folder is a file."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TREEPO_CACHE", str(tmp_path / "file"))
    load()
    load()
    load_kernels.cache_clear()
    assert len(builds) == 2


def test_processes_may_compile_at_the_same_time(folder: Path) -> None:
    """Each loads a whole library, and one is kept."""
    processes = [subprocess.Popen([sys.executable, "-c", LOAD]) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert len(list(folder.iterdir())) == 1
