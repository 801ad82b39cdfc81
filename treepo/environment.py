"""What a run runs in: versions and hardware, no names of hosts or users."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

import treepo
from treepo.report.page.folder import ENVIRONMENT_NAME


def record_environment(out: Path, command: str) -> None:
    """Append one line to the folder of a run, as it begins or is gone on with."""
    with (out / ENVIRONMENT_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(environment(command)) + "\n")


def environment(command: str) -> dict[str, str]:
    """Of this process. command: what it was started with; the home folder in it is told as `~`."""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command.replace(str(Path.home()), "~"),
        "treepo": treepo.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "numpy")},
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "processes": os.environ.get("WORLD_SIZE", "1"),
        **({"gpus": ", ".join(names)} if names else {}),
    }


def _processor() -> str:
    """The name of the CPU's model, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
