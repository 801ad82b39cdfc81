"""The final model of a run, uploaded to the Hugging Face hub."""

import logging
from pathlib import Path

from huggingface_hub import HfApi

from treepo.config.schema import TrackingSettings
from treepo.errors import SettingError
from treepo.utils.text import error_line

logger = logging.getLogger(__name__)


PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
"""Files of a model and its tokenizer; nothing else of a folder is uploaded."""


def check_hub(settings: TrackingSettings) -> None:
    """Raise SettingError if the model is to be pushed and the hub takes no token: before hours of training, not after.

    Nobody is asked if the model is not to be pushed.
    """
    if not settings.push_to_hub:
        return
    try:
        HfApi().whoami()
    except Exception as error:
        message = f"the hub takes no token of yours ({error_line(error)}); log in with `hf auth login`, or set HF_TOKEN"
        raise SettingError("tracking.push_to_hub", message) from error


def push(settings: TrackingSettings, out: Path, folder: Path) -> None:
    """Upload a folder with a model or an adapter, if asked; a warning says what went wrong, and the run is whole.

    out: the run's folder, after which the repository is named if the settings name none.
    """
    if not settings.push_to_hub:
        return
    name = settings.hub_model_id or out.resolve().name
    try:
        api = HfApi()
        repo = str(api.create_repo(name, private=settings.hub_private_repo, exist_ok=True).repo_id)
        api.upload_folder(
            repo_id=repo, folder_path=str(folder), commit_message="Trained with treepo", allow_patterns=PATTERNS
        )
    except Exception as error:  # noqa: BLE001 - the hub and the network raise what they like, and the model is on disk
        again = f"hf upload {name} {folder}"
        logger.warning("the model could not be pushed to %s (%s); `%s` tries again", name, error_line(error), again)
    else:
        logger.info("The model is at https://huggingface.co/%s.", repo)
