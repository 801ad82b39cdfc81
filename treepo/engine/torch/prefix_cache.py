"""What is known of each group: a tree of token runs and the slots that hold their keys and values.

Requests of one group share what they begin with alike. Each token is stored once; where two runs part, they are split.
"""

from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

import numpy as np

from treepo.engine.torch.kv_cache import Blocks, blocks_of


@dataclass(eq=False, slots=True)
class Run:
    """Tokens that follow each other, and their slots, int32 [n]; the root of a group has none.

    children: by their first token. num_users: running requests that end at or below it; last_used: when one last did.
    """

    token_ids: np.ndarray
    slots: np.ndarray
    parent: "Run | None"
    children: dict[int, "Run"] = field(default_factory=dict)
    num_users: int = 0
    last_used: int = 0


NOTHING = np.zeros(0, np.int32)


class PrefixCache:
    """All groups, over one set of blocks."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks
        self.groups: dict[int, Run] = {}
        self.clock = 0

    def match(self, group: int, ids: np.ndarray) -> tuple[Run, int]:
        """(the run that ends where `ids` stops being known, number of known ids); splits a run that parts inside."""
        run = self.groups.setdefault(group, Run(NOTHING, NOTHING, None))
        num_known = 0
        while num_known < len(ids) and (child := run.children.get(int(ids[num_known]))):
            shared = num_common(child.token_ids, ids[num_known:])
            num_known += shared
            if shared < len(child.token_ids):
                return self._split(child, shared), num_known
            run = child
        return run, num_known

    def attach(self, run: Run, ids: np.ndarray, slots: np.ndarray) -> Run:
        """A new run below another, which holds the blocks of its slots from now on."""
        child = Run(ids, slots, run, last_used=self.clock)
        run.children[int(ids[0])] = child
        return child

    def insert(self, run: Run, ids: np.ndarray, slots: np.ndarray) -> None:
        """Keep tokens below a run; those that are known already keep the slots they have."""
        while len(ids):
            child = run.children.get(int(ids[0]))
            if child is None:
                self.blocks.hold(blocks_of(slots))
                self.attach(run, ids, slots)
                return
            shared = num_common(child.token_ids, ids)
            run = self._split(child, shared) if shared < len(child.token_ids) else child
            ids, slots = ids[shared:], slots[shared:]

    def slots_of(self, run: Run) -> np.ndarray:
        """int32: the slots from the beginning to the end of a run."""
        parts = []
        at: Run | None = run
        while at is not None:
            parts.append(at.slots)
            at = at.parent
        return np.concatenate(parts[::-1])

    def use(self, run: Run, change: int) -> None:
        """One user more or less (change = 1 or -1) of everything from the beginning to the end of a run."""
        self.clock += 1
        at: Run | None = run
        while at is not None:
            at.num_users += change
            at.last_used = self.clock
            at = at.parent

    def evict(self, num_blocks: int) -> bool:
        """Forget what was used least recently and nobody uses until so many blocks are left; False if that fails.

        Nothing is forgotten in vain, where all of it together would not do.
        """
        unused = [run for root in self.groups.values() for run in below(root) if run.num_users == 0]
        if self.blocks.num_left + len(self._freed_with(unused)) < num_blocks:
            return False
        leaves = [(run.last_used, i, run) for i, run in enumerate(unused) if not run.children]
        heapify(leaves)
        while self.blocks.num_left < num_blocks and leaves:
            _, i, run = heappop(leaves)
            parent = run.parent
            assert parent is not None
            self.blocks.release(blocks_of(run.slots))
            del parent.children[int(run.token_ids[0])]
            if not parent.children and parent.num_users == 0 and parent.parent is not None:
                heappush(leaves, (parent.last_used, i, parent))
        return self.blocks.num_left >= num_blocks

    def _freed_with(self, runs: list[Run]) -> np.ndarray:
        """The blocks that only these runs hold."""
        blocks, holders = np.unique(
            np.concatenate([NOTHING, *(blocks_of(run.slots) for run in runs)]), return_counts=True
        )
        return blocks[self.blocks.holders[blocks.astype(np.int64)] == holders]

    def drop(self, group: int) -> None:
        """Forget a group, none of whose requests are running."""
        root = self.groups.pop(group, None)
        for run in below(root) if root else ():
            assert run.num_users == 0, "a running request still needs this"
            self.blocks.release(blocks_of(run.slots))

    def _split(self, run: Run, offset: int) -> Run:
        """Cut a run in two after `offset` tokens; returns the new upper part. A block that both touch has both."""
        assert 0 < offset < len(run.token_ids) and run.parent is not None
        upper = Run(run.token_ids[:offset], run.slots[:offset], run.parent, {}, run.num_users, run.last_used)
        run.parent.children[int(upper.token_ids[0])] = upper
        self.blocks.hold(np.intersect1d(blocks_of(run.slots[:offset]), blocks_of(run.slots[offset:])))
        run.token_ids, run.slots, run.parent = run.token_ids[offset:], run.slots[offset:], upper
        upper.children[int(run.token_ids[0])] = run
        return upper


def below(root: Run) -> list[Run]:
    """All runs below a root."""
    runs, stack = [], list(root.children.values())
    while stack:
        run = stack.pop()
        runs.append(run)
        stack.extend(run.children.values())
    return runs


def num_common(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the longest common prefix."""
    length = min(len(a), len(b))
    differs = np.flatnonzero(a[:length] != b[:length])
    return int(differs[0]) if len(differs) else length
