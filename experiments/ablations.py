"""What each part contributes: packing, tree sampling, the subgroup advantage, unbiased leaf weights, planning.

    OMP_NUM_THREADS=1 python -m experiments.ablations --task chain_sums --seeds 0 1 2

The first three are added one to the other, from GRPO whose updates forward each trajectory on its own up to TreePO;
the last two are each added to TreePO. Unbiased leaf weights ask for advantages that are not whitened.
"""

from experiments.paired import Variant, main

VARIANTS = {
    "GRPO, no packing": Variant("grpo", {"train": {"packing": False}}),
    "GRPO": Variant("grpo"),
    "+ tree sampling": Variant("treepo", {"credit": {"use": "GRPO"}}),
    "+ subgroup advantage: TreePO": Variant("treepo"),
    "TreePO, unbiased leaves": Variant("treepo", {"credit": {"leaves": "unbiased", "whiten": False}}),
    "TreePO, planned": Variant("treepo", {"branching": {"use": "Planned"}}),
}

if __name__ == "__main__":
    main("ablations", lambda _: VARIANTS, __doc__)
