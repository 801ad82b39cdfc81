"""Subgroup advantages: averaged, weighted by size, with rejection, without the root (paper, section 4.2).

    OMP_NUM_THREADS=1 python -m experiments.advantage_variants --task chain_sums --seeds 0 1 2

The same trees for all, other advantages; GRPO's, which looks at no subgroup, beside them.
"""

from experiments.paired import Variant, main


def credit(**settings: object) -> Variant:
    """The treepo recipe with other advantages."""
    return Variant("treepo", {"credit": settings})


VARIANTS = {
    "average (eq. 5)": Variant("treepo"),
    "by size (eq. 6)": credit(weight="size"),
    "with rejection (eq. 7)": credit(reject_agreeing=True),
    "without the root": credit(with_root=False),
    "GRPO": credit(use="GRPO"),
}

if __name__ == "__main__":
    main("advantage_variants", lambda _: VARIANTS, __doc__)
