"""The choice of a shape: how many paths in each stage have the least predicted noise per token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from treepo.credit.base import Estimator
from treepo.plan.allocation import candidate_paths
from treepo.plan.components import Components, Moments, add_moments, solve_components
from treepo.plan.noise import ShapeKernel, linear_part, noise_per_token, shape_kernel, skeletons

FEWEST = 2
"""Children of the prompt: with fewer, the first segment is compared with nothing and learns nothing."""

MAX_TRIED = 6
"""Numbers of paths that are tried in each stage when a shape is improved."""


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
    known: "Kernels | None" = None,
) -> Plan:
    """The shape of `width` paths with the least predicted noise per token, by the moments of trees (or blocks of them).

    Candidates are the best allocations for a baseline of the problem's mean and for the parent's value, and even trees;
    the best of them is improved step by step, all of it as if paths ended early without leaving their part to others.
    Then it is compared with a star as trees grow, over `num_samples` bootstrap samples. It is a star, too, if fewer
    than `confidence` of these believe that another shape is better. known: kernels to use and to add to.
    """
    components = solve_components(add_moments(moments))
    kernels = known or Kernels(linear_part(estimator))
    plain, star = components.per_path(), (width,) * components.depth
    best = _improved(_candidates(components, width), lambda p: noise_per_token(kernels.plain(p), plain))
    if best == star:
        return Plan(star, 1.0, np.ones(num_samples), components)
    own, flat = kernels.grown(best, components), kernels.grown(star, components)
    rng = np.random.default_rng(seed)
    resamples = [rng.integers(len(moments), size=len(moments)) for _ in range(num_samples)]
    samples = [solve_components(add_moments([moments[i] for i in chosen])) for chosen in resamples]
    gains = np.array([gain_of(flat, own, sample) for sample in samples])
    plan = Plan(best, gain_of(flat, own, components), gains, components)
    if plan.gain <= 1 or plan.believed < confidence:
        return Plan(star, 1.0, np.ones(num_samples), components)
    return plan


@dataclass(frozen=True, eq=False)
class Kernels:
    """The kernels of shapes under an estimator that is linear in the rewards, each computed once."""

    estimator: Estimator
    known: dict[tuple[tuple[int, ...], tuple[float, ...]], ShapeKernel] = field(default_factory=dict)

    def plain(self, paths: tuple[int, ...]) -> ShapeKernel:
        """That of a shape whose paths all reach the last stage."""
        return self._kernel(paths, (1.0,) * len(paths))

    def grown(self, paths: tuple[int, ...], components: Components) -> ShapeKernel:
        """That of a shape whose paths end as the components say, with shares to the next twentieth."""
        return self._kernel(paths, tuple((np.round(components.reached * 20) / 20).tolist()))

    def _kernel(self, paths: tuple[int, ...], reached: tuple[float, ...]) -> ShapeKernel:
        if (paths, reached) not in self.known:
            self.known[paths, reached] = shape_kernel(skeletons(paths, reached), self.estimator, len(paths))
        return self.known[paths, reached]


def gain_of(star: ShapeKernel, kernel: ShapeKernel, components: Components) -> float:
    """A star's noise per token over a shape's; 1 where nothing varies, inf where a star alone teaches nothing."""
    own, other = noise_per_token(kernel, components), noise_per_token(star, components)
    return other / own if 0 < own < np.inf else 1.0


def _candidates(components: Components, width: int) -> list[tuple[int, ...]]:
    """A star first, so that it is chosen where nothing is better."""
    costs, fewest = components.tokens * components.reached, min(FEWEST, width)
    found = []
    for is_local in (False, True):
        found += candidate_paths(components.stage_variances(local_baseline=is_local), costs, width, fewest=fewest)
    found += [even_paths(width, components.depth, num_children) for num_children in (2, 3, 4)]
    # Trees that fork once more below the prompt.
    depth = components.depth
    found += [(count,) * k + (width,) * (depth - k) for k, count in product(range(1, depth), _counts(width))]
    # Even trees that are not deep enough for their width are left out.
    return [paths for paths in dict.fromkeys(found) if paths[-1] == width and paths[0] >= fewest]


def _counts(width: int) -> list[int]:
    """Numbers of paths to try, from the fewest to the width."""
    return list(dict.fromkeys(np.geomspace(min(FEWEST, width), width, MAX_TRIED).round().astype(int).tolist()))


def _improved(candidates: Sequence[tuple[int, ...]], noise: Callable[[tuple[int, ...]], float]) -> tuple[int, ...]:
    """The best candidate, improved while raising all stages from some one on to a number of paths, or lowering all up
    to some one, makes it better; of equal ones the first."""
    best, improved = min(candidates, key=noise), True
    counts = _counts(best[-1])
    while improved:
        before = best
        for stage, count in product(range(len(best) - 1), counts):
            raised = (*best[:stage], *(max(own, count) for own in best[stage:]))
            lowered = (*(min(own, count) for own in best[: stage + 1]), *best[stage + 1 :])
            best = min(best, raised, lowered, key=noise)
        improved = noise(best) < noise(before)
    return best
