"""GRPO, GRPO with tree sampling, TreePO with fixed and with more initial divergence, planned shapes (paper, table 1).

OMP_NUM_THREADS=1 python -m experiments.methods --task chain_sums --seeds 0 1 2 3 4
"""

from experiments.paired import Variant, main

VARIANTS = {
    "GRPO": Variant("grpo"),
    "GRPO with tree sampling": Variant("treepo", {"credit": {"use": "GRPO"}}),
    "TreePO": Variant("treepo"),
    "TreePO, more initial divergence": Variant("treepo", {"initial_fork": {"low": 2, "high": 8}}),
    "Planned": Variant("treepo", {"branching": {"use": "Planned"}}),
    "Planned, GRPO's advantages": Variant("treepo", {"branching": {"use": "Planned"}, "credit": {"use": "GRPO"}}),
}

if __name__ == "__main__":
    main("methods", lambda _: VARIANTS, __doc__, seeds=(0, 1, 2, 3, 4))
