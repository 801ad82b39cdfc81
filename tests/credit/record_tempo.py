"""Records the advantages of TEMPO's release on random groups of responses: `python -m tests.credit.record_tempo FILE`.

FILE is verl/trainer/ppo/core_algos.py of github.com/fatebreaker/tempo at commit 0a1c273, from which the one function is
taken.
"""

import json
import sys
from collections import defaultdict
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch

from tests.credit.record_verl import functions
from tests.trees import random_tree

NAME = "compute_tempo_outcome_advantage"


def main(file: Path) -> None:
    [release] = functions(file, [NAME], {"defaultdict": defaultdict, "deepcopy": deepcopy}).values()
    rng, recorded = np.random.default_rng(0), []
    for i in range(12):
        tree = random_tree(rng, int(rng.integers(2, 9)), vocab=3)
        responses = [path.token_ids for path in tree.trajectories()]
        rewards = rng.choice([0.0, 1.0] if i % 2 else [-1.0, 0.0, 0.25, 1.0], len(responses))
        lengths = np.array([len(ids) for ids in responses])
        mask = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None]).double()
        padded = torch.full(mask.shape, -1)
        scores = torch.zeros_like(mask)
        for row, ids in enumerate(responses):
            padded[row, : len(ids)] = torch.from_numpy(ids)
            scores[row, len(ids) - 1] = float(rewards[row])
        index = np.array(["one"] * len(responses))
        found, _ = release(scores, padded, mask, mask, index, torch.tensor(1.0))
        advantages = [row[:n].tolist() for row, n in zip(found, lengths, strict=True)]
        own = {"responses": [ids.tolist() for ids in responses], "rewards": rewards.tolist()}
        recorded.append(own | {"advantages": [[round(a, 9) for a in row] for row in advantages]})
    lines = ",\n".join(map(json.dumps, recorded))
    Path(__file__).with_name("tempo_0a1c273.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
