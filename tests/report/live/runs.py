"""Run folders as `treepo watch` finds them."""

import json
from pathlib import Path
from typing import Any


def begin(folder: Path, num_steps: int = 4) -> None:
    """Settings, and no metrics yet."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(f"[train]\nnum_steps = {num_steps}\n")


def line(step: int, **more: Any) -> str:
    """The metrics of one step."""
    phases = {"time/grow_s": 1.0, "time/verify_s": 0.0, "time/pack_s": 0.1, "time/update_s": 0.7, "time/step_s": 2.0}
    rest = {"completions/length/mean": 50.0, "entropy": 0.1, "tokens/sharing": 3.0, "reward/mean": step / 8}
    return json.dumps({"step": step, **(phases | rest if step else {"eval/avg": 0.25}), **more}) + "\n"


def write(folder: Path, *lines: str) -> None:
    """Append to the metrics."""
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(lines)


def cut(folder: Path, num_lines: int) -> None:
    """What resuming does: the metrics are replaced by their beginning."""
    path = folder / "metrics.jsonl"
    kept = path.read_text().splitlines(keepends=True)[:num_lines]
    (folder / "metrics.jsonl.partial").write_text("".join(kept))
    (folder / "metrics.jsonl.partial").replace(path)
