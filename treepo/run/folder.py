"""The folder of a new run, and what may be done after the run."""

import shlex
from pathlib import Path

from treepo.config.load import to_toml
from treepo.config.schema import Config
from treepo.credit.group import GRPO
from treepo.distributed import DistContext
from treepo.run.hub import check_hub
from treepo.run.outputs import is_model_kept
from treepo.run.tracking import check_installed
from treepo.utils import GIVEN
from treepo.utils.io import check_unused, create_text, prepare_output_dir, preparing


def check_before_loading(config: Config, out: Path, processes: DistContext) -> None:
    """Raise SettingError for a folder that already holds something, and for trackers and a hub that cannot be used."""
    with processes.synced_errors():
        if processes.is_first:
            check_unused(out)
            check_hub(config.tracking)
    check_installed(config.tracking)


def make_folder(config: Config, out: Path) -> None:
    """Make the folder of a run, with its settings. Raises SettingError, WriteError."""
    prepare_output_dir(out)
    path = out / "config.toml"
    with preparing(path, "out"):
        # Of two runs that start at once in one folder, one fails here.
        create_text(path, to_toml(config))


def next_commands(config: Config, out: Path) -> list[tuple[str, str]]:
    """(purpose, command) of what a user may want to do after this run."""
    commands = []
    if any(source.startswith(GIVEN) for source in config.data.train):
        # Only the program that started it has its rows.
        return []
    if is_model_kept(config):
        go_on = ["treepo", "train", str(out / "config.toml"), "--model.path", str(out / "model")]
        commands.append(("Go on from this model", shlex.join(go_on)))
    if not isinstance(config.credit, GRPO):
        width, response_len = config.tree.width, config.tree.max_response_tokens
        star = {"tree.depth": 1, "tree.segment_len": response_len, "tree.num_children": width}
        star |= {"initial_fork.low": width, "initial_fork.high": width}
        options = [text for name, value in star.items() for text in (f"--{name}", str(value))]
        compare = ["treepo", "train", str(out / "config.toml"), "--credit.use", "GRPO", *options]
        commands.append(("Compare with GRPO", shlex.join(compare)))
    return commands
