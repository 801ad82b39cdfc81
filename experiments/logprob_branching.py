"""Branching led by log-probabilities: toward improbable or probable paths, at one temperature or a falling one (4.4).

OMP_NUM_THREADS=1 python -m experiments.logprob_branching --task chain_sums --seeds 0 1 2
"""

from typing import Literal

from experiments.paired import Variant, main


def guided(toward: Literal["low", "high"], **temperatures: float) -> Variant:
    """The treepo recipe with other branching."""
    return Variant("treepo", {"branching": {"use": "LogprobBranching", "toward": toward, **temperatures}})


VARIANTS = {
    "even": Variant("treepo"),
    "toward low": guided("low"),
    "toward high": guided("high"),
    "toward low, 5 to 1": guided("low", temperature=5.0, last_temperature=1.0),
    "toward high, 5 to 1": guided("high", temperature=5.0, last_temperature=1.0),
}

if __name__ == "__main__":
    main("logprob_branching", lambda _: VARIANTS, __doc__)
