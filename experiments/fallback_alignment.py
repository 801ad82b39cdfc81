"""Fallbacks that cut at boundaries of segments, and at places that are none (paper, section 4.2).

    OMP_NUM_THREADS=1 python -m experiments.fallback_alignment --task chain_sums --seeds 0 1 2

Segments are twice as long as the recipe's, so that paths end before a tree has its width and fallbacks are needed.
"""

from typing import Any

from experiments.paired import Variant, main
from treepo.config.schema import Config


def variants_of(config: Config) -> dict[str, Variant]:
    """Where a trajectory is cut back to."""
    length = 2 * config.tree.segment_len
    tree = {"depth": config.tree.depth // 2, "segment_len": length}

    def cut(**fallback: Any) -> Variant:
        return Variant("treepo", {"tree": tree} | ({"fallback": fallback} if fallback else {}))

    return {
        "aligned": cut(),
        "misaligned": cut(window=length // 3),
        "at the least likely token": cut(cut="unlikely_token"),
    }


if __name__ == "__main__":
    main("fallback_alignment", variants_of, __doc__)
