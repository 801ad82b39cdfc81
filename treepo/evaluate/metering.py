"""What finished trees cost, while others still grow."""

from collections.abc import Sequence

from treepo.engine import Engine
from treepo.evaluate.records import Cost
from treepo.tree import Tree


class Meter:
    """Shares what an engine has done since the meter was made among the trees that were finished with.

    Tokens decoded are each tree's own. Tokens prefilled and seconds are shared in proportion to them, so that what
    trees still under way have used is charged with them, or not at all if they are lost, and with the last tree all is
    charged. num_accelerators: devices that decode.
    """

    def __init__(self, engine: Engine, num_accelerators: int) -> None:
        self.engine = engine
        self.num_accelerators = num_accelerators
        self.start = engine.counters
        self.seconds = 0.0
        self.charged = Cost()

    def charge(self, trees: Sequence[Tree], seconds: float) -> Cost:
        """What these trees cost; seconds: those that the engine has been at work since the last call."""
        self.seconds += seconds
        used, before = self.engine.counters - self.start, self.charged
        decoded = before.tokens_decoded + sum(tree.num_decoded() for tree in trees)
        share = min(1.0, decoded / used.num_decoded) if used.num_decoded else 1.0
        prefilled = max(before.tokens_prefilled, round(used.num_prefilled * share))
        wall_s = max(before.wall_s, self.seconds * share)
        self.charged = Cost(decoded, prefilled, wall_s, wall_s * self.num_accelerators)
        return Cost(
            decoded - before.tokens_decoded,
            prefilled - before.tokens_prefilled,
            wall_s - before.wall_s,
            (wall_s - before.wall_s) * self.num_accelerators,
        )
