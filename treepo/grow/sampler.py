"""Growing many trees over one engine: the one place where trees and engines meet."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import numpy as np

from treepo.data.problem import Problem
from treepo.engine.base import Engine, SampleRequest, SamplingParams
from treepo.grow.builder import GrowthRules, Segment, TreeBuilder
from treepo.tree import Tree
from treepo.utils.numeric import derive_seed


class TreeSampler:
    """Grows one tree per problem; each advances on its own, so the engine is never drained to wait for a slow one."""

    def __init__(self, engine: Engine, rules: GrowthRules, sampling: SamplingParams = SamplingParams()) -> None:  # noqa: B008 - frozen
        self.engine = engine
        self.rules = rules
        self.sampling = sampling

    def begin_step(self, step: int) -> dict[str, float]:
        """Called before the trees of a training step are grown; returns metrics of how they will be."""
        return {}

    def rules_of(self, problem: Problem) -> GrowthRules:
        """The rules by which a problem's tree grows, all of the same shape."""
        return self.rules

    def observe(self, trees: Sequence[Tree], rewards: Sequence[np.ndarray]) -> None:
        """Called with the trees of a training step, of this process, and the rewards of their leaves [L]."""

    def grow(
        self,
        problems: Sequence[Problem],
        seed: int,
        chosen: Sequence[int] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, Tree]]:
        """Yield (position in `problems`, its finished tree) as the trees finish.

        chosen: the positions of the problems to grow, in rising order; all if not given. A tree depends on `seed`, its
        problem and the model alone: not on the other problems, not on the engine's batch. A problem that occurs twice
        gets two different trees, whether both are grown here or not. Not more trees grow at a time than the engine can
        hold, so that those under way go first. progress: called after each step of the engine with (trajectories done,
        the most there will be).
        """
        chosen = range(len(problems)) if chosen is None else chosen
        waiting, num_done = deque(self._builders(problems, seed, chosen)), 0
        growing: dict[int, TreeBuilder] = {}
        under_way: dict[int, tuple[int, int]] = {}
        request_ids = count()
        tree_sizes: list[int] = []

        def submit(position: int, segments: list[Segment]) -> None:
            for index, segment in enumerate(segments):
                request_id = next(request_ids)
                under_way[request_id] = (position, index)
                self.engine.submit(
                    SampleRequest(
                        request_id=request_id,
                        prefix_ids=segment.prefix_ids,
                        max_new_tokens=segment.max_new_tokens,
                        seed=segment.seed,
                        sampling=self.sampling,
                        group=position,
                    )
                )

        try:
            while waiting or under_way:
                while waiting and self._has_room(len(growing), tree_sizes):
                    position, builder = waiting.popleft()
                    growing[position] = builder
                    submit(position, builder.start())
                finished = [(under_way.pop(r.request_id), r) for r in self.engine.step()]
                for (position, index), result in finished:
                    num_done -= len(growing[position].finished)
                    submit(position, growing[position].receive(index, result))
                    num_done += len(growing[position].finished)
                    if growing[position].done:
                        self.engine.abort_group(position)
                        tree = growing.pop(position).tree
                        tree_sizes.append(len(tree.prompt_ids) + tree.num_decoded())
                        yield position, tree
                if progress is not None:
                    progress(num_done, len(chosen) * self.rules.shape.width)
        finally:
            # If the caller stops early, the next call must not get results of trees that nobody waits for.
            for position in growing:
                self.engine.abort_group(position)

    def _has_room(self, num_growing: int, tree_sizes: Sequence[int]) -> bool:
        """Whether the engine has free slots, and a cache for one more tree of the mean size of those that finished.

        Before any has, the largest size without fallback counts. One tree grows in any case.
        """
        if num_growing == 0:
            return True
        size = sum(tree_sizes) / len(tree_sizes) if tree_sizes else self.rules.shape.max_tree_tokens
        return self.engine.num_free_slots > 0 and (num_growing + 1) * size <= self.engine.kv_cache_tokens

    def _builders(
        self, problems: Sequence[Problem], seed: int, chosen: Sequence[int]
    ) -> Iterator[tuple[int, TreeBuilder]]:
        wanted, num_seen = set(chosen), Counter[str]()
        for position, p in enumerate(problems):
            if position in wanted:
                yield (
                    position,
                    TreeBuilder(p.id, p.prompt_ids, derive_seed(seed, p.id, num_seen[p.id]), self.rules_of(p)),
                )
            num_seen[p.id] += 1
