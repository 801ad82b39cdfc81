"""Models in GGUF files, llama.cpp's format: made into an ordinary folder once, in float32."""

import logging
from copy import deepcopy
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path

from treepo.errors import SettingError
from treepo.model.saving import save_model
from treepo.utils.foreign_errors import first_line

logger = logging.getLogger(__name__)


def folder_of_gguf(path: str, cache: Path) -> str:
    """The folder of the model in a GGUF file, with its weights dequantised; made in the cache if it is not there.

    Its name is a checksum of the file. Raises SettingError if the file is no model that transformers reads, or the
    package gguf is not installed.
    """
    if not Path(path).is_file():
        raise SettingError("model.path", "no such file", path)
    folder = cache / f"gguf-{_checksum(Path(path))}"
    if (folder / "config.json").is_file():
        return str(folder)
    convert_gguf(path, folder)
    return str(folder)


def check_gguf_package(path: str) -> None:
    """Raise SettingError if the package that reads GGUF files is not installed. path: the model as it was named."""
    if find_spec("gguf") is None:
        raise SettingError("model.path", "GGUF files need the package gguf: pip install 'treepo[gguf]'", path)


def convert_gguf(path: str, folder: Path) -> None:
    """Write the model in a GGUF file to a folder, which is there as a whole or not at all; see `folder_of_gguf`."""
    check_gguf_package(path)
    logger.info("dequantising %s into %s", path, folder)
    try:
        _convert(Path(path), folder)
    # Whatever is wrong with the file, in the words of the library.
    except Exception as error:
        raise SettingError("model.path", f"cannot read it as GGUF: {first_line(error)}", path) from error


def _convert(path: Path, folder: Path) -> None:
    import torch  # noqa: PLC0415 - slow to load
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    quantised = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    config = deepcopy(quantised.config)
    # With it transformers refuses to save what it has dequantised.
    vars(config).pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id)
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, folder, tokenizer)


def _checksum(path: Path) -> str:
    found = blake2b(digest_size=12)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()
