"""Two processes under DDP: each grows whole trees, and advantages are whitened over both."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from tests.integrations.trl.trainers import config, dataset, distinct_characters, weights
from tests.processes import free_port, join_job
from tests.runs import START_METHOD
from treepo.credit import REINFORCEPlusPlus
from treepo.integrations.trl import TreeGRPOTrainer

pytestmark = [pytest.mark.trl, pytest.mark.filterwarnings("ignore")]


def train_in(rank: int, count: int, port: int, model: str, folder: str) -> None:
    join_job(rank, count, port)
    torch.set_num_threads(1)
    args = config(Path(folder), estimator=REINFORCEPlusPlus(), beta=0.1, tree_depth=3, max_steps=2)
    trainer = TreeGRPOTrainer(model, distinct_characters, args, train_dataset=dataset())
    outputs = []
    score = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: outputs.append(score(inputs)) or outputs[-1]
    trainer.train()
    first = outputs[0]
    torch.save(
        {
            "weights": weights(trainer),
            "advantages": first["advantages"],
            "lengths": first["completion_mask"].sum(1),
            "completions": first["completion_ids"],
        },
        f"{folder}/{rank}.pt",
    )


def test_two_processes(tmp_path, tiny_llama):
    mp.start_processes(
        train_in, args=(2, free_port(), str(tiny_llama), str(tmp_path)), nprocs=2, start_method=START_METHOD
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    assert first["completions"].tolist() != second["completions"].tolist()
    # One mean and one variance of all tokens.
    values, counts = (np.concatenate([first[name], second[name]]) for name in ("advantages", "lengths"))
    mean = np.average(values, weights=counts)
    assert mean == pytest.approx(0, abs=1e-6)
    assert (counts * values**2).sum() / (counts.sum() - 1) == pytest.approx(1, abs=1e-4)
    assert np.average(first["advantages"], weights=first["lengths"]) != pytest.approx(0, abs=1e-3)
    assert os.environ.get("RANK") is None
