"""Entropies of kept trees are those of a plain forward of each trajectory."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.learn.reference import random_trees
from tests.learn.test_update import updater_of
from tests.models import make_tiny_model
from treepo.tree import ROOT


def plain_entropies(model, ids: np.ndarray, temperature: float) -> np.ndarray:
    """float32 [n]: before each token but the first, by transformers' own forward."""
    with torch.no_grad():
        logits = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0, :-1] / temperature
    return torch.distributions.Categorical(logits=logits).entropy().numpy()


@pytest.mark.parametrize("way", ["packed", "in parts", "apart"])
def test_each_token_has_the_entropy_of_a_plain_forward_of_its_trajectory(way: str) -> None:
    """Whether siblings that begin alike are merged, trees are cut into parts, or nothing is shared."""
    plain = make_tiny_model(attention="sdpa")
    trees = random_trees(plain, seed=1, num_trees=4)
    updater = updater_of(make_tiny_model())
    updater = replace(
        updater,
        scorer=replace(updater.scorer, temperature=0.7),
        packing=way != "apart",
        max_tokens_per_micro_batch=12 if way == "in parts" else 4096,
    )
    found = updater.tree_entropies(trees)
    for tree, own in zip(trees, found, strict=True):
        assert np.isnan(own[ROOT]).all() and len(own[ROOT]) == len(tree.prompt_ids)
        for leaf in tree.leaves():
            expected = plain_entropies(plain, tree.ids(leaf), 0.7)[len(tree.prompt_ids) - 1 :]
            path = np.concatenate([own[i] for i in tree.path(leaf)[1:]])
            np.testing.assert_allclose(path, expected, atol=1e-5)
