"""Where the model of a run lies: what settings name, the folder made of a GGUF file or of a package from PyPI, the
base model of a built-in task."""

from treepo.config.schema import Config
from treepo.errors import SettingError
from treepo.model.gguf import folder_of_gguf
from treepo.model.pypi import folder_of_package, is_packaged
from treepo.model.sources import is_gguf
from treepo.tasks.base import BuiltInTask
from treepo.tasks.base_model import find_or_make_base_model
from treepo.tasks.chain_sums import ChainSums
from treepo.tasks.registry import built_in_task
from treepo.utils import ProgressCallback
from treepo.utils.io import default_cache_folder, preparing


def base_model_path(config: Config, progress: ProgressCallback) -> str:
    """The model that is named, or the base model of the built-in task, made if it is not there."""
    if config.data.is_given and not config.model.path:
        named = (config.data.train or config.data.eval)[0]
        raise SettingError("model.path", f"the problems of {named!r} need a model; none is given")
    if config.model.path:
        return model_folder(config.model.path)
    return find_base_model(progress, built_in_task(config.task))


def model_folder(path: str) -> str:
    """The path of a model; of a GGUF file or a model from PyPI, the folder that is made of it in the cache."""
    if not (is_gguf(path) or is_packaged(path)):
        return path
    folder = default_cache_folder().absolute()
    if is_packaged(path):
        with preparing(folder, "TREEPO_CACHE", "the model from PyPI"):
            return folder_of_package(path, folder)
    with preparing(folder, "TREEPO_CACHE", "the model of the GGUF file"):
        return folder_of_gguf(path, folder)


def find_base_model(progress: ProgressCallback, task: type[BuiltInTask] = ChainSums) -> str:
    """The folder of a built-in task's base model, made if it is not there."""
    folder = default_cache_folder().absolute()
    with preparing(folder, "TREEPO_CACHE", "the base model"):
        return str(find_or_make_base_model(folder, seed=0, report=progress, task=task))
