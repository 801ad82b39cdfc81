"""Predicted noise, where it has a closed form, and the shapes that follow from it."""

import numpy as np
import pytest

from experiments import leaf_weights
from experiments.estimator_bias import chain_gradient
from experiments.shapes import Chain
from treepo.credit import GRPO, RLOO, SPO, DrGRPO, MaxRL, REINFORCEPlusPlus, TreePO, TreeRL, ValueDifference
from treepo.plan.choice import Kernels, choose_shape, even_paths, gain_of
from treepo.plan.components import Components, Moments
from treepo.plan.noise import linear_part, noise_per_token, shape_kernel, skeletons

DEPTH = 4


def components(variances, scores=None, tokens=None, reached=None) -> Components:
    parts = [np.ones(DEPTH) if part is None else np.array(part, float) for part in (scores, tokens, reached)]
    return Components(np.array(variances, float), *parts)


def moments(known: Components, num: int = 8) -> list[Moments]:
    """Blocks of trees that all say the same: forks at every depth, each of one stage."""
    columns = [known.variances, np.ones(DEPTH), known.tokens, known.scores, known.reached]
    return [Moments(np.eye(DEPTH), *columns)] * num


def test_a_star_is_grpos_own():
    """tr Cov of sum (R_i - mean) score_i / G with independent scores of squared norm Q is Q var(R) (1 - 1/G) / G, its
    mean is 1 - 1/G of the gradient, and it costs G C tokens."""
    known = components([0.3, 0.1, 0.4, 0.2], scores=[1, 2, 3, 4], tokens=[5, 6, 7, 8])
    for width in (2, 8):
        kernel = shape_kernel(skeletons((width,) * DEPTH, known.reached.tolist()), DrGRPO(), DEPTH)
        expected = 10 * 1.0 / (width - 1) * width * 26
        assert noise_per_token(kernel, known) == pytest.approx(expected)
        assert noise_per_token(kernel, known, scaled=False) == pytest.approx(expected)


def test_with_many_leaves_a_tree_is_the_sum_over_stages():
    """sum S_k / N_k x sum c_k N_k, whose baseline is a constant, is what RLOO tends to with many paths per stage."""
    known = components([0.3, 0.1, 0.4, 0.2], scores=[1, 2, 3, 4], tokens=[5, 6, 7, 8])
    paths = np.array([16, 32, 32, 64])
    kernel = shape_kernel(skeletons(tuple(paths.tolist()), known.reached.tolist()), RLOO(), DEPTH)
    expected = float((known.stage_variances() / paths).sum() * (paths * known.tokens).sum())
    assert noise_per_token(kernel, known) == pytest.approx(expected, rel=0.1)


def test_value_differences_have_the_noise_of_their_forks():
    """A(n) is the difference from the mean of c siblings: (1 - 1/c) of the gradient, and of the variance below."""
    known = components([0.0, 1.0, 0, 0], scores=[1, 2, 0, 0])
    kernel = shape_kernel(skeletons((2, 8, 8, 8), known.reached.tolist()), ValueDifference(), DEPTH)
    of_first = 1 / 2 * (1 / 4) / (1 - 1 / 2)
    of_second = 2 / 8 / (1 - 1 / 4)
    assert noise_per_token(kernel, known) == pytest.approx((of_first + of_second) * 26)


def test_the_components_of_the_noise_add_up_to_a_stars():
    known = components([0.3, 0.1, 0.4, 0.2], scores=[1, 2, 3, 4], reached=[1, 0.9, 0.5, 0.4])
    total = float((known.scores * known.reached).sum()) * known.total
    assert known.stage_variances().sum() == pytest.approx(total)


@pytest.mark.parametrize("estimator", [DrGRPO(), GRPO(), RLOO(), REINFORCEPlusPlus()])
def test_all_estimators_with_the_trees_mean_are_one(estimator):
    known = components([0.3, 0.1, 0.4, 0.2])
    judge, other = Kernels(linear_part(estimator)).plain, Kernels(DrGRPO()).plain
    for paths in ((2, 4, 8, 8), (3, 3, 5, 8)):
        assert noise_per_token(judge(paths), known) == pytest.approx(noise_per_token(other(paths), known))


def test_estimators_that_are_not_linear_stand_for_their_neighbours():
    assert isinstance(linear_part(GRPO()), DrGRPO) and isinstance(linear_part(MaxRL()), DrGRPO)
    assert isinstance(linear_part(SPO()), ValueDifference)
    for estimator in (RLOO(), TreePO(), TreeRL(), ValueDifference(), DrGRPO(leaves="unbiased")):
        assert linear_part(estimator) is estimator


def test_what_is_decided_at_the_end_is_forked_there():
    """And there a tree pays, up to what the shared tokens cost: 4 stages, of which 3 are decoded twice, not 8 times."""
    plan = choose_shape(moments(components([0, 0, 0, 1.0])), DrGRPO(), 8)
    assert plan.paths == (3, 3, 3, 8)
    assert 1.4 < plan.gain < 32 / 14 and plan.believed == 1


def test_what_is_decided_at_the_start_is_a_star_for_the_trees_mean():
    """Within a few percent: all later noise is that of scores with the same advantage, which sharing does not help."""
    plan = choose_shape(moments(components([1.0, 0, 0, 0])), DrGRPO(), 8)
    assert plan.gain < 1.06
    known = components([1.0, 0, 0, 0])
    judge = Kernels(DrGRPO()).plain
    assert gain_of(judge((8,) * DEPTH), judge(even_paths(8, DEPTH, 2)), known) < 0.9


def test_nothing_varies_is_a_star():
    plan = choose_shape(moments(components([0.0] * 4)), DrGRPO(), 8)
    assert plan.is_star and plan.gain == 1


def test_a_star_where_too_few_samples_believe_in_more():
    blocks = [*moments(components([1.0, 0, 0, 0]), 4), *moments(components([0, 0, 0, 0.9]), 4)]
    assert not choose_shape(blocks, DrGRPO(), 8).is_star
    assert choose_shape(blocks, DrGRPO(), 8, confidence=1.01).is_star


def test_a_shape_that_teaches_a_stage_nothing_is_out():
    """Without the root's group the first segment learns nothing, whatever the shape."""
    known = components([0.5, 0.2, 0.2, 0.1])
    judge = Kernels(TreePO(with_root=False)).plain
    assert np.isinf([noise_per_token(judge(paths), known) for paths in ((2, 4, 8, 8), (8, 8, 8, 8))]).all()
    assert choose_shape(moments(known), TreePO(with_root=False), 8).is_star


def test_early_ends_cost_fewer_tokens():
    known = components([1.0] * 4, reached=[1, 0.5, 0.5, 0.5])
    assert Kernels(DrGRPO()).grown((8,) * DEPTH, known).nodes == pytest.approx([8, 4, 4, 4], abs=1.0)


@pytest.mark.parametrize("ends", [True, False])
def test_the_gradient_of_the_experiments_chains_is_the_known_one(ends):
    """By stage it adds up to that of experiments/estimator_bias.py, with a table per position too."""
    name = "ends early" if ends else "decided late"
    whole = chain_gradient(leaf_weights.Policy(ends))
    assert Chain(name, by_position=False).gradient.sum(0) == pytest.approx(whole)
    by_position = Chain(name, by_position=True).gradient.sum(0).reshape(-1, len(whole))
    assert by_position.sum(0) == pytest.approx(whole)
