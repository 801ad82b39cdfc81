"""How many paths each stage of a tree should have: the allocation of nested sampling.

A tree with N_k paths in stage k, N_1 <= N_2 <= ..., has noise sum S_k / N_k and costs sum c_k N_k. Source: optimal
allocation in sampling by stages (Cochran, Sampling Techniques, chapter 10) under an order of the N_k, which pooling
adjacent violators keeps (Barlow et al., Statistical Inference under Order Restrictions, 1972).
"""

import numpy as np


def allocate(variances: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """float64 [K]: the N, up to a common factor, with the least noise x cost, sum S_k / N_k x sum c_k N_k.

    N_k is proportional to sqrt(S_k / c_k); where that would fall, adjacent stages are pooled, so that they have as many
    paths each, sqrt(sum S / sum c) over the pool. variances, costs [K]: S and c, not negative; N is 0 only where S is 0
    for all stages up to there. Free stages (c = 0) would have as many paths as one likes; their ratio is infinite.
    """
    pools: list[list[float]] = []
    for variance, cost in zip(variances.tolist(), costs.tolist(), strict=True):
        pools.append([variance, cost, 1.0])
        while len(pools) > 1 and _ratio(pools[-2]) >= _ratio(pools[-1]):
            last = pools.pop()
            pools[-1] = [own + more for own, more in zip(pools[-1], last, strict=True)]
    return np.concatenate([np.full(int(pool[2]), np.sqrt(_ratio(pool))) for pool in pools])


def _ratio(pool: list[float]) -> float:
    """sum S / sum c of a pool; 0 where it has no variance."""
    variance, cost, _ = pool
    if variance <= 0:
        return 0.0
    return variance / cost if cost > 0 else np.inf


def integer_allocation(
    variances: np.ndarray, costs: np.ndarray, price: float, width: int, *, fewest: int = 1
) -> list[int]:
    """Whole N_1 <= ... <= N_K = `width`, none below `fewest`, with the least sum S_k / N_k + price x sum c_k N_k.

    Exact, by dynamic programming over stages. As the price goes from 0 up, the shapes go from a star to the deepest
    tree; those with the least noise x cost are among them or close to them.
    """
    sizes = np.arange(fewest, width + 1)
    # best[i]: the least sum of the stages so far, if the last of them has sizes[i] paths.
    best, choices = np.zeros(len(sizes)), []
    for variance, cost in zip(variances[:-1].tolist(), costs[:-1].tolist(), strict=True):
        own = best + variance / sizes + price * cost * sizes
        # The cheapest with at most as many paths; of equal ones the last, so that what costs nothing is a star.
        choice = np.zeros(len(sizes), int)
        for i in range(1, len(sizes)):
            choice[i] = i if own[i] <= own[choice[i - 1]] else choice[i - 1]
        best = own[choice]
        choices.append(choice)
    place, paths = len(sizes) - 1, [width]
    for choice in reversed(choices):
        place = int(choice[place])
        paths.append(int(sizes[place]))
    return paths[::-1]


def candidate_paths(variances: np.ndarray, costs: np.ndarray, width: int, *, fewest: int = 1) -> list[tuple[int, ...]]:
    """The shapes that `integer_allocation` chooses at prices from a star's to that of the deepest tree."""
    if not (variances > 0).any() or not (costs > 0).any():
        return [(width,) * len(variances)]
    middle = float(variances.sum() / costs.sum()) / width**2
    prices = middle * np.geomspace(1e-3, 1e5, 33)
    found = (tuple(integer_allocation(variances, costs, float(price), width, fewest=fewest)) for price in prices)
    return list(dict.fromkeys([(width,) * len(variances), *found]))
