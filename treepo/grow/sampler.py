"""TreeSampler: drives all trees over one engine. The one place where trees and engines meet."""

from collections import Counter
from collections.abc import Iterator, Sequence

from treepo.engine import Engine, SampleRequest
from treepo.grow.growth import Growth, Rules, Segment
from treepo.seeds import derive_seed
from treepo.task.problem import Problem
from treepo.tree import Tree


class TreeSampler:
    """Grows one tree per problem; each advances on its own, so the engine is never drained to wait for a slow one."""

    def __init__(self, engine: Engine, rules: Rules, temperature: float = 1.0) -> None:
        self.engine = engine
        self.rules = rules
        self.temperature = temperature

    def grow(self, problems: Sequence[Problem], seed: int) -> Iterator[tuple[int, Tree]]:
        """Yield (position in `problems`, its finished tree) as the trees finish.

        A tree depends on `seed`, its problem and the model alone: not on the other problems, not on the engine's batch.
        A problem that is asked twice grows two different trees.
        """
        growths = []
        times_asked = Counter[str]()
        for p in problems:
            growths.append(Growth(p.id, p.prompt_ids, derive_seed(seed, p.id, times_asked[p.id]), self.rules))
            times_asked[p.id] += 1
        under_way: dict[int, tuple[int, int]] = {}
        num_submitted = 0

        def submit(position: int, segments: list[Segment]) -> None:
            nonlocal num_submitted
            for index, s in enumerate(segments):
                request = SampleRequest(num_submitted, s.prefix_ids, s.max_new_tokens, s.seed, self.temperature)
                self.engine.submit(request)
                under_way[num_submitted] = (position, index)
                num_submitted += 1

        for position, growth in enumerate(growths):
            submit(position, growth.start())
        try:
            while under_way:
                finished = [(under_way.pop(r.request_id), r) for r in self.engine.step()]
                for (position, index), result in finished:
                    submit(position, growths[position].receive(index, result))
                    if growths[position].done:
                        yield position, growths[position].tree
        except GeneratorExit:
            # The caller wants no more trees: leave nothing in the engine that the next call would be handed.
            self._drain(under_way)
            raise

    def _drain(self, under_way: dict[int, tuple[int, int]]) -> None:
        while under_way:
            for result in self.engine.step():
                del under_way[result.request_id]
