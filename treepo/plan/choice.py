"""The choice of a shape: how many paths in each stage have the least predicted noise per token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from treepo.credit.base import Estimator
from treepo.plan.allocation import candidate_paths
from treepo.plan.components import Components, Moments, add_moments, solve_components
from treepo.plan.noise import ShapeKernel, linear_part, noise_per_token, shape_kernel, skeletons

FEWEST = 2
"""Children of the prompt: with fewer, the first segment is compared with nothing and learns nothing."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A shape and what it is predicted to buy.

    paths: in each stage. gain: a star's noise per token over this shape's, as the estimates predict it; gains: the same
    for bootstrap samples of the trees. believed: the share of these in which it is above 1. components: the estimates.
    """

    paths: tuple[int, ...]
    gain: float
    gains: np.ndarray
    components: Components

    @property
    def is_star(self) -> bool:
        """Whether it forks at the prompt alone."""
        return self.paths[0] == self.paths[-1]

    @property
    def believed(self) -> float:
        """The share of bootstrap samples in which it beats a star."""
        return float(np.mean(self.gains > 1)) if len(self.gains) else 0.0

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """The central interval of the gain over bootstrap samples."""
        low, high = np.quantile(self.gains, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


def even_paths(width: int, depth: int, num_children: int) -> tuple[int, ...]:
    """The paths of a tree that forks evenly at every level until it has its width."""
    return tuple(min(width, num_children ** min(level + 1, 20)) for level in range(depth))


def choose_shape(
    moments: Sequence[Moments],
    estimator: Estimator,
    width: int,
    *,
    num_samples: int = 200,
    seed: int = 0,
    confidence: float = 0.0,
) -> Plan:
    """The shape of `width` paths with the least predicted noise per token, by the moments of trees (or blocks of them).

    Candidates are the best allocations for a baseline of the problem's mean and for the parent's value, and even trees;
    each is judged by what the estimator makes of it, and the best is improved stage by stage. It is a star, too,
    if fewer than `confidence` of the bootstrap samples believe that another shape is better.
    """
    components = solve_components(add_moments(moments))
    judge = kernels_of(estimator, components)
    depth, star = components.depth, (width,) * components.depth
    best = _improved(_candidates(components, width, depth), lambda p: noise_per_token(judge(p), components))
    rng = np.random.default_rng(seed)
    resamples = [rng.integers(len(moments), size=len(moments)) for _ in range(num_samples)]
    samples = [solve_components(add_moments([moments[i] for i in chosen])) for chosen in resamples]
    plan = Plan(best, gain_of(judge(star), judge(best), components), _gains(judge, best, star, samples), components)
    if plan.is_star or plan.gain <= 1 or plan.believed < confidence:
        return Plan(star, 1.0, np.ones(num_samples), components)
    return plan


def kernels_of(estimator: Estimator, components: Components) -> Callable[[tuple[int, ...]], ShapeKernel]:
    """The kernel of each shape, computed once."""
    linear, known = linear_part(estimator), dict[tuple[int, ...], ShapeKernel]()

    def kernel(paths: tuple[int, ...]) -> ShapeKernel:
        if paths not in known:
            known[paths] = shape_kernel(skeletons(paths, components.reached.tolist()), linear, components.depth)
        return known[paths]

    return kernel


def gain_of(star: ShapeKernel, kernel: ShapeKernel, components: Components) -> float:
    """A star's noise per token over a shape's; 1 where nothing varies, inf where a star alone teaches nothing."""
    own, other = noise_per_token(kernel, components), noise_per_token(star, components)
    return other / own if 0 < own < np.inf else 1.0


def _gains(
    judge: Callable[[tuple[int, ...]], ShapeKernel],
    paths: tuple[int, ...],
    star: tuple[int, ...],
    samples: Sequence[Components],
) -> np.ndarray:
    return np.array([gain_of(judge(star), judge(paths), sample) for sample in samples])


def _candidates(components: Components, width: int, depth: int) -> list[tuple[int, ...]]:
    costs, fewest = components.tokens * components.reached, min(FEWEST, width)
    found = [even_paths(width, depth, num_children) for num_children in (2, 3, 4)]
    for is_local in (False, True):
        found += candidate_paths(components.stage_variances(local_baseline=is_local), costs, width, fewest=fewest)
    # Whatever its depth allows, a tree ends with its width.
    return [paths for paths in dict.fromkeys(found) if paths[-1] == width and paths[0] >= fewest]


def _improved(candidates: Sequence[tuple[int, ...]], noise: Callable[[tuple[int, ...]], float]) -> tuple[int, ...]:
    """The best candidate, and then the best along each stage in turn; of equal ones the first, a star before others."""
    best = min(candidates, key=noise)
    for stage in range(len(best) - 1):
        low, high = best[stage - 1] if stage else min(FEWEST, best[-1]), best[stage + 1]
        ways = [(*best[:stage], count, *best[stage + 1 :]) for count in range(low, high + 1)]
        best = min([best, *ways], key=noise)
    return best
