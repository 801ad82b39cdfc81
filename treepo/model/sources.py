"""Where a model's parts come from: its weights, an adapter on top of them, its tokenizer."""

from dataclasses import dataclass
from pathlib import Path

from treepo.errors import SettingError
from treepo.model.adapter_files import ADAPTER_WEIGHTS, adapter_base, is_adapter_folder, local_adapter
from treepo.model.safety import check_model_files
from treepo.utils import GIVEN


@dataclass(frozen=True)
class ModelSource:
    """base: folder or name of the model whose weights are loaded; adapter: folder of the adapter that is added to them,
    or empty; tokenizer: where the tokenizer comes from; revision: of the model on the hub, if given."""

    base: str
    adapter: str
    tokenizer: str
    revision: str | None = None

    @property
    def tokenizer_revision(self) -> str | None:
        """An own tokenizer has no revision."""
        return self.revision if self.tokenizer == self.base else None


def find_source(path: str, *, tokenizer: str = "", revision: str = "") -> ModelSource:
    """Where the parts of a model come from. path: of a model, or of an adapter, whose file names the model it is for;
    either may be on the hub.

    tokenizer: folder or name of the one to use; if empty, that of the adapter's folder or else the model's. Raises
    SettingError for folders that hold no model, adapter or tokenizer.
    """
    if path.startswith(GIVEN):
        message = "a model that a program handed over: go on in that program, with TreePOTrainer.train(resume=True)"
        raise SettingError("model.path", message, path)
    named, path = path, local_adapter(path, "model.path", revision or None)
    # Of a name on the hub the revision is the adapter's.
    revision = revision if path == named else ""
    check_folder(path, needs_tokenizer=not tokenizer)
    if tokenizer and Path(tokenizer).is_dir():
        if not has_tokenizer(Path(tokenizer)):
            raise SettingError("model.tokenizer", f"no tokenizer in {tokenizer!r}")
        check_model_files(Path(tokenizer))
    if not is_adapter_folder(path):
        return ModelSource(path, "", tokenizer or path, revision or None)
    base = adapter_base(Path(path))
    if is_adapter_folder(base):
        raise SettingError("model.path", f"the adapter in {path!r} is for {base!r}, an adapter itself")
    own = path if has_tokenizer(Path(path)) else base
    try:
        check_folder(base, needs_tokenizer=not tokenizer and own == base)
    except SettingError as error:
        raise SettingError("model.path", f"the adapter in {path!r} is for {base!r}: {error.message}") from error
    return ModelSource(base, path, tokenizer or own, revision or None)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"))


def check_folder(path: str, needs_tokenizer: bool = True) -> None:
    """Raise SettingError if a path is neither a model's folder nor an adapter's; the name of a model on the hub and a
    GGUF file pass."""
    folder = Path(path)
    try:
        is_folder, is_file = folder.is_dir(), folder.is_file()
    except OSError as error:
        raise SettingError("model.path", f"cannot use {path[:100]!r}: {error.strerror}") from error
    if is_gguf(path) and is_file:
        return
    if not is_folder:
        if path.startswith((".", "/", "~")) or path.count("/") > 1:
            raise SettingError("model.path", f"no folder {path!r}")
        return
    if is_adapter_folder(path):
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise SettingError("model.path", f"no {ADAPTER_WEIGHTS} in {str(folder)!r}")
        check_model_files(folder)
        return
    if not (folder / "config.json").is_file():
        raise SettingError("model.path", f"no config.json in {str(folder)!r}")
    if needs_tokenizer and not has_tokenizer(folder):
        raise SettingError("model.path", f"no tokenizer in {str(folder)!r}")
    if not any(folder.glob("*.safetensors")):
        raise SettingError("model.path", f"no safetensors weights in {str(folder)!r}")
    check_model_files(folder)


def is_gguf(path: str) -> bool:
    """Whether a path names a GGUF file."""
    return path.lower().endswith(".gguf")
