"""Growing many trees over one engine: the one place where trees and engines meet."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count

import numpy as np

from treepo.data.problem import Problem
from treepo.engine.base import Engine, SampleRequest, SampleResult, SamplingParams
from treepo.envs.pool import CallResult
from treepo.grow.builder import GrowthRules, Segment, TreeBuilder
from treepo.grow.environment_calls import EnvironmentCalls, EnvironmentCounters
from treepo.tree import ROOT, Tree
from treepo.utils.numeric import derive_seed

logger = logging.getLogger(__name__)


class TreeSampler:
    """Grows one tree per problem; each advances on its own, so the engine is never drained to wait for a slow one."""

    def __init__(
        self,
        engine: Engine,
        rules: GrowthRules,
        sampling: SamplingParams = SamplingParams(),  # noqa: B008 - frozen
        *,
        is_chat_checked: bool = False,
    ) -> None:
        self.engine = engine
        self.rules = rules
        self.sampling = sampling
        self.is_chat_checked = is_chat_checked
        self.environments = EnvironmentCounters()
        """What environments have taken so far."""

    def begin_step(self, step: int) -> dict[str, float]:
        """Called before the trees of a training step are grown; returns metrics of how they will be."""
        return {}

    def problem_range(self, count: int) -> tuple[int, int | None]:
        """The problems of the training step that has begun: how many, `count` unless a plan takes others, and how many
        the steps before have had, None if as many each."""
        return count, None

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
        the most there will be). Raises EnvironmentFailedError where an environment cannot be begun, or all steps of
        several trees fail.
        """
        chosen = range(len(problems)) if chosen is None else chosen
        growing = _GrowingTrees(self)
        waiting = deque(_seeded(problems, seed, chosen))
        version = self.engine.num_updates
        try:
            while waiting or growing.num_under_way:
                assert self.engine.num_updates == version, "weights change only between trees"
                while waiting and self._has_room(waiting[0][1], growing.num_trees, growing.tree_sizes):
                    growing.begin(*waiting.popleft())
                yield from growing.advance()
                if progress is not None:
                    progress(growing.num_trajectories, len(chosen) * self.rules.shape.width)
        finally:
            # If the caller stops early, the next call must not get results of trees that nobody waits for.
            growing.close()
            if growing.calls is not None:
                self.environments += growing.calls.counters

    def _has_room(self, problem: Problem, num_growing: int, tree_sizes: Sequence[int]) -> bool:
        """Whether the engine has free slots, and a cache for a tree of the mean size of those that finished.

        Before any has, the largest size without fallback counts, for this problem. One tree grows in any case.
        """
        if num_growing == 0:
            return True
        most = len(problem.prompt_ids) + self.rules.max_tree_tokens
        size = sum(tree_sizes) / len(tree_sizes) if tree_sizes else most
        return self.engine.num_free_slots > 0 and (num_growing + 1) * size <= self.engine.kv_cache_tokens


class _GrowingTrees:
    """The trees that are under way, by the positions of their problems, and what they wait for."""

    def __init__(self, sampler: TreeSampler) -> None:
        self.sampler = sampler
        self.engine, self.rules, self.sampling = sampler.engine, sampler.rules, sampler.sampling
        self.builders: dict[int, TreeBuilder] = {}
        self.requests: dict[int, tuple[int, int]] = {}
        self.request_ids = count()
        self.tree_sizes: list[int] = []
        self.num_trajectories = 0
        self.calls = EnvironmentCalls(self.rules.turns) if self.rules.turns else None

    @property
    def num_trees(self) -> int:
        """Trees that were begun and are not done."""
        return len(self.builders) + (len(self.calls.beginning) if self.calls else 0)

    @property
    def num_under_way(self) -> int:
        """Requests and calls that have not come to an end."""
        return len(self.requests) + (self.calls.pool.num_pending if self.calls else 0)

    def begin(self, position: int, problem: Problem, seed: int) -> None:
        """Begin a tree, or first its environment."""
        if self.calls is not None:
            self.calls.begin(position, problem, seed)
            return
        rules = self.sampler.rules_of(problem)
        self._start(position, TreeBuilder(problem.id, problem.prompt_ids, seed, rules))

    def advance(self) -> Iterator[tuple[int, Tree]]:
        """Make one step of the engine, take what environments have answered, and yield the trees that are done."""
        if self.calls is not None:
            # Without requests there is nothing else to do than to wait for environments.
            results = self.calls.poll(wait=not self.requests)
            # All are taken before a tree is yielded: whoever waits for it may ask for no other.
            yield from [done for result in results for done in self._take_call(self.calls, result)]
        finished: list[SampleResult] = self.engine.step() if self.requests else []
        for result in finished:
            position, index = self.requests.pop(result.request_id)
            yield from self._advanced(position, lambda b, i=index, r=result: b.receive(i, r))

    def close(self) -> None:
        """Forget the trees that are not done."""
        if self.calls is not None:
            self.calls.pool.drop_waiting(lambda key: key[1][0] == "close")
        for position, builder in self.builders.items():
            self.engine.abort_group(position)
            if self.calls is not None and builder.turns is not None:
                builder.turns.close_all()
                self.calls.submit(position, builder.turns)
        if self.calls is not None:
            self.calls.close()

    def _take_call(self, calls: EnvironmentCalls, result: CallResult) -> Iterator[tuple[int, Tree]]:
        position, key = result.key  # type: ignore[misc] - all keys of these calls are pairs
        if key == "begin":
            problem, seed, prompt_ids, turns = calls.begun(position, result)
            builder = TreeBuilder(problem.id, prompt_ids, seed, self.sampler.rules_of(problem), turns)
            self._check_chat(builder)
            self._start(position, builder)
        elif key[0] == "close":
            if result.error is not None:
                calls.log("an environment could not be closed", result.error)
        else:
            own = replace(result, key=key)
            calls.count(position, own)
            yield from self._advanced(position, lambda builder: builder.receive_call(own))

    def _check_chat(self, builder: TreeBuilder) -> None:
        """Warn, once, of a chat template that would write earlier turns in another way than they were sampled."""
        if self.sampler.is_chat_checked or builder.turns is None:
            return
        self.sampler.is_chat_checked = True
        if warning := builder.turns.rules.chat.history_warning(builder.turns.starts[ROOT].history):
            logger.warning("%s", warning)

    def _start(self, position: int, builder: TreeBuilder) -> None:
        self.builders[position] = builder
        self._submit(position, builder.start())

    def _advanced(self, position: int, advance: Callable[[TreeBuilder], list[Segment]]) -> Iterator[tuple[int, Tree]]:
        """Let a tree go on, and yield it if it is done."""
        builder = self.builders[position]
        self.num_trajectories -= len(builder.finished)
        self._submit(position, advance(builder))
        self.num_trajectories += len(builder.finished)
        if self.calls is not None and builder.turns is not None:
            self.calls.submit(position, builder.turns)
        if builder.done:
            self.engine.abort_group(position)
            tree = self.builders.pop(position).tree
            self.tree_sizes.append(sum(len(node.token_ids) for node in tree.nodes) + tree.num_dropped)
            yield position, tree

    def _submit(self, position: int, segments: list[Segment]) -> None:
        for index, segment in enumerate(segments):
            request_id = next(self.request_ids)
            self.requests[request_id] = (position, index)
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


def _seeded(problems: Sequence[Problem], seed: int, chosen: Sequence[int]) -> Iterator[tuple[int, Problem, int]]:
    """(position, problem, seed of its tree) of the chosen problems."""
    wanted, num_seen = set(chosen), Counter[str]()
    for position, p in enumerate(problems):
        if position in wanted:
            yield position, p, derive_seed(seed, p.id, num_seen[p.id])
        num_seen[p.id] += 1
