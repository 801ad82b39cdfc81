"""Depth x segment length at the same longest response: the recipe's, half, twice and four times as long (section 4.3).

OMP_NUM_THREADS=1 python -m experiments.segment_lengths --task chain_sums --seeds 0 1 2
"""

from experiments.paired import Variant, main
from treepo.config.schema import Config


def variants_of(config: Config) -> dict[str, Variant]:
    """Shapes of the same longest response; the recipe's first, as it is."""
    depth, length = config.tree.depth, config.tree.segment_len
    shapes = [(2 * depth, length // 2), (depth // 2, 2 * length), (depth // 4, 4 * length)]
    return {f"{depth} x {length}": Variant("treepo")} | {
        f"{d} x {n}": Variant("treepo", {"tree": {"depth": d, "segment_len": n}}) for d, n in shapes if d > 0 and n > 0
    }


if __name__ == "__main__":
    main("segment_lengths", variants_of, __doc__)
