"""Records what verl's own functions say about random groups: `python tests/credit/record_verl.py FOLDER`.

FOLDER is where the wheel was unpacked (`pip download verl==0.9.1 --no-deps`). The functions are taken out of its files
one by one, so that nothing that verl depends on has to be installed.
"""

import ast
import json
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import numpy as np
import torch

GRPO = "compute_grpo_outcome_advantage"
RLOO = "compute_rloo_outcome_advantage"
RF_PLUS_PLUS = "compute_reinforce_plus_plus_baseline_outcome_advantage"


def functions(path: Path, names: list[str], known: dict[str, Any]) -> dict[str, Any]:
    """These functions of a file, without their decorators."""
    wanted = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef) and n.name in names]
    for node in wanted:
        node.decorator_list = []
    scope = {"torch": torch, "np": np, "Optional": Optional, "AlgoConfig": Any, **known}
    exec(compile(ast.Module(wanted, []), str(path), "exec"), scope)
    return {name: scope[name] for name in names}


def main(folder: Path) -> None:
    masked = functions(
        folder / "verl/utils/torch_functional.py", ["masked_sum", "masked_mean", "masked_var", "masked_whiten"], {}
    )
    known = {"defaultdict": defaultdict, "verl_F": SimpleNamespace(**masked)}
    verl = functions(folder / "verl/trainer/ppo/core_algos.py", [GRPO, RLOO, RF_PLUS_PLUS], known)
    rng = np.random.default_rng(0)
    # The rewards of its test_grpo_vectorized_matches_original_for_low_variance_rewards, then random ones.
    batches = [([[1.0, 1.00001], [2.0, 2.00001]], [[1, 1], [1, 1]])]
    for _ in range(8):
        sizes = [1, *rng.integers(2, 9, size=3).tolist()]
        rewards = [rng.choice([-1.0, 0.0, 0.25, 1.0], size).tolist() for size in sizes]
        batches.append((rewards, [rng.integers(1, 8, size).tolist() for size in sizes]))
    recorded = []
    for rewards, lengths in batches:
        index = np.repeat(np.arange(len(rewards)), [len(r) for r in rewards])
        lens = torch.tensor([n for own in lengths for n in own])
        mask = (torch.arange(int(lens.max())) < lens[:, None]).double()
        scores = torch.zeros_like(mask)
        scores[torch.arange(len(lens)), lens - 1] = torch.tensor(
            [r for own in rewards for r in own], dtype=torch.float64
        )

        def of(name: str, mask: torch.Tensor = mask, scores: torch.Tensor = scores, **options: Any) -> list[float]:
            return verl[name](scores.clone(), mask, index, **options)[0][:, 0].tolist()  # noqa: B023

        expected = {
            "GRPO": of(GRPO),
            "DrGRPO": of(GRPO, norm_adv_by_std_in_grpo=False),
            "RLOO": of(RLOO),
            "REINFORCEPlusPlus": of(RF_PLUS_PLUS),
        }
        recorded.append({"rewards": rewards, "lengths": lengths} | expected)
    Path(__file__).with_name("verl_0.9.1.json").write_text("[\n" + ",\n".join(map(json.dumps, recorded)) + "\n]\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
