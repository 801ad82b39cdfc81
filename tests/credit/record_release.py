"""Records the segment advantages of TreePO's release on random trees: `python -m tests.credit.record_release FILE`.

FILE is verl/trainer/ppo/core_algos.py of github.com/multimodal-art-projection/TreePO at commit f055523. The functions
are taken out of it one by one, so that nothing that it depends on has to be installed.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from tests.credit.record_verl import functions

NAMES = ["tree_group_wise_reward", "calculate_rewards_iterative", "calculate_segment_advantage"]


def random_paths(rng: np.random.Generator, prefix: str = "uid", depth: int = 1) -> list[str]:
    """Names of trajectories as the release has them: one part per segment, with chains and leaves of several depths."""
    paths = []
    for child in range(int(rng.integers(1, 4))):
        name = f"{prefix}#{depth}-{child}"
        paths += random_paths(rng, name, depth + 1) if depth < 4 and rng.random() < 0.6 else [name]
    return paths


def main(file: Path) -> None:
    known = {"defaultdict": defaultdict, "Dict": dict, "List": list}
    release = functions(file, NAMES, known)
    # They call each other.
    for function in release.values():
        function.__globals__.update(release)
    rng, recorded = np.random.default_rng(0), []
    for i in range(12):
        paths = random_paths(rng)
        data = dict(zip(paths, rng.choice([-1.0, 0.0, 0.25, 1.0], len(paths)).tolist(), strict=True))
        eta = [-1.0, 0.5, 0.9][i % 3]
        advantages = release[NAMES[2]](release[NAMES[0]](data), adv_eta=eta)
        recorded.append({"paths": paths, "rewards": [*data.values()], "eta": eta, "advantages": [*advantages.values()]})
    lines = ",\n".join(map(json.dumps, recorded))
    Path(__file__).with_name("release_f055523.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
