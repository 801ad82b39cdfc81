"""The experiment on the bias of estimators, and that the docs give its figures."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments import estimator_bias as experiment
from experiments import leaf_weights as chain
from tests.credit.exact import TinyPolicy, value_of
from tests.credit.test_leaf_weights import score_of
from tests.trees import complete_tree, star, tree_of
from treepo.credit.base import Advantages
from treepo.credit.segment import FadingDifference

ROOT = Path(__file__).parents[2]
RATIOS = {
    "DrGRPO": (0.627, 0.837),
    "RLOO": (0.836, 1.116),
    "TreePO": (0.517, 0.726),
    "TreePO, by size": (0.535, 0.745),
    "TreePO, without root": (0.336, 0.336),
    "ValueDifference": (0.693, 0.903),
    "ValueDifference, leaves": (0.562, 0.771),
    "TreeRL": (1.057, 1.477),
    "RLOO, unbiased": (1.0, 1.0),
    "DrGRPO, unbiased": (0.622, 0.622),
    "TreePO, unbiased": (0.480, 0.480),
}
"""Expected update over the policy gradient, without and with fallback, from another program."""


def test_expected_updates_over_all_trees() -> None:
    """Each estimator's, and that the unbiased one is the gradient in every logit."""
    found = experiment.exact(tuple(RATIOS))
    for name, expected in RATIOS.items():
        assert [found[kind][name]["ratio"] for kind in ("none", "resume")] == pytest.approx(expected, abs=6e-4)
    for own in found.values():
        assert own["RLOO, unbiased"]["ratio"] == pytest.approx(1, abs=1e-12)
        assert own["RLOO, unbiased"]["cosine"] == pytest.approx(1, abs=1e-12)


def test_the_scores_of_the_tiny_policy() -> None:
    """By the shared logit they are those of the enumerations elsewhere."""
    policy = TinyPolicy(2)
    score = experiment.tiny_score(policy)
    for response in ((0,), (1, 0), (1, 1, 0), (1, 1, 1)):
        table = score((), response).reshape(-1, 2)
        assert table.sum(1) == pytest.approx(np.zeros(len(table)), abs=1e-12)
        assert table[:, 0].sum() == pytest.approx(score_of(policy, list(response), 0))
        assert score((), response[:1]) + score(response[:1], response[1:]) == pytest.approx(score((), response))
    target = policy.mean(lambda r: value_of(r) * score_of(policy, list(r), 0), experiment.SMALL.max_response_tokens)
    gradient = sum(p * value_of(r) * score((), r) for p, r in experiment.responses(policy))
    assert gradient.reshape(-1, 2)[:, 0].sum() == pytest.approx(target)


@pytest.mark.parametrize("ends", [True, False])
def test_the_gradient_of_the_chain(ends: bool) -> None:
    """By the shared logit it is that of leaf_weights.py; by all logits of a state it is 0."""
    policy = chain.Policy(ends)
    gradient = experiment.chain_gradient(policy).reshape(3, 4)
    assert gradient[:, chain.RIGHT].sum() == pytest.approx(policy.truth()["gradient"])
    assert gradient.sum(1) == pytest.approx(np.zeros(3), abs=1e-12)


def test_what_the_tokens_of_a_node_count() -> None:
    """Once for each trajectory through it, with what it has there, over the leaves."""
    tree = tree_of({0: (1, 2), 2: (3, 4)})
    assert experiment.node_weights(tree, Advantages(np.array([3.0, 6, 9]))) == pytest.approx([6, 1, 5, 2, 3])
    of_nodes = Advantages(np.array([0, 3.0, 6, 9, 12]), per_node=True)
    assert experiment.node_weights(tree, of_nodes) == pytest.approx([0, 1, 4, 3, 4])
    pairs = FadingDifference(0.5)(complete_tree(2), np.array([1.0, 0, 0, 0]))
    weights = experiment.node_weights(complete_tree(2), Advantages(pairs, per_node=True))
    assert weights[1:] == pytest.approx(pairs.sum(1)[1:] / 4)


def test_whitening_takes_the_mean_over_tokens_from_all() -> None:
    """Two stars of one and three leaves, of 3 and 1 tokens, equally likely: the mean is (3 x 5 + 3 x 1) / 6 = 3."""
    updates, scores = experiment.Updates(), np.eye(2)
    updates.add(0.5, star(1, 3), Advantages(np.array([5.0])), scores)
    updates.add(0.5, star(3, 1), Advantages(np.array([1.0, 1, 1])), np.array([[0, 0], [1, 0], [1, 0], [0, 3]]))
    assert updates.of_batches(whitened=False) == pytest.approx(np.array([[5.0, 5.0], [2 / 3, 1.0]]))
    assert updates.of_batches(whitened=True) == pytest.approx(np.array([[2.0, 2.0], [-4 / 3, -2.0]]))


def test_the_docs_have_the_figures_of_the_experiment() -> None:
    """Each row of the table in docs/credit.md, from experiments/results/estimator_bias.json."""
    results = json.loads((ROOT / "experiments" / "results" / "estimator_bias.json").read_text())
    rows = experiment.table(results["exact"], results["simulated"]).splitlines()
    text = (ROOT / "docs" / "credit.md").read_text()
    section = text.partition("## Bias and noise")[2].partition("\n## ")[0]
    shown = re.findall(r"^\| [A-Z].*\|$", section, re.MULTILINE)
    assert len(shown) > 10 and set(shown) <= set(rows)
