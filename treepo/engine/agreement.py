"""Whether an engine computes the policy's own distribution."""

from collections.abc import Callable

import numpy as np

from treepo.engine.base import Engine, SampleRequest, Sampling

Score = Callable[[np.ndarray, float], np.ndarray]
"""(token ids [n], temperature) -> log-probabilities [n, V] of what follows each, at that temperature."""

NUM_PROBES = 8


def largest_gap(engine: Engine, score: Score, ids: np.ndarray, sampling: Sampling) -> float:
    """Largest difference between the log-probability that an engine reports for a token that it samples and the
    policy's, over several prefixes of `ids`; infinite where one is not a number."""
    lengths = np.unique(np.linspace(1, len(ids), NUM_PROBES).astype(int)).tolist()
    for name, length in enumerate(lengths):
        engine.submit(SampleRequest(name, ids[:length], 1, seed=name, sampling=sampling))
    found: dict[int, tuple[int, float]] = {}
    while len(found) < len(lengths):
        found |= {r.request_id: (int(r.token_ids[0]), float(r.logprobs[0])) for r in engine.step()}
    engine.release(0)
    every = score(ids, sampling.temperature or 1.0)
    gaps = [abs(found[name][1] - every[length - 1, found[name][0]]) for name, length in enumerate(lengths)]
    return float(max(gaps)) if np.isfinite(gaps).all() else float("inf")
