"""Growing many trees over one engine: the one place where trees and engines meet."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np

from treepo.data.problem import Problem
from treepo.engine.base import Engine, SampleRequest, SampleResult, SamplingParams
from treepo.envs.base import Calls, as_messages, run_calls
from treepo.envs.pool import CallResult, EnvironmentPool
from treepo.envs.replay import ReplayFork
from treepo.errors import EnvironmentFailedError, StrategyError
from treepo.grow.builder import GrowthRules, Segment, TreeBuilder
from treepo.grow.turns import TreeTurns, TurnRules
from treepo.tree import ROOT, Tree
from treepo.utils.numeric import derive_seed

logger = logging.getLogger(__name__)

MIN_FAILED, MIN_TREES = 8, 3
"""Calls into environments that must all fail, and trees that they must be of, before the environment is to blame."""

MAX_LOGGED = 3
"""Failures of environments that are logged per call."""


class TreeSampler:
    """Grows one tree per problem; each advances on its own, so the engine is never drained to wait for a slow one."""

    def __init__(self, engine: Engine, rules: GrowthRules, sampling: SamplingParams = SamplingParams()) -> None:  # noqa: B008 - frozen
        self.engine = engine
        self.rules = rules
        self.sampling = sampling
        self.is_chat_checked = False

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
                while waiting and self._has_room(growing.num_trees, growing.tree_sizes):
                    growing.begin(*waiting.popleft())
                yield from growing.advance()
                if progress is not None:
                    progress(growing.num_trajectories, len(chosen) * self.rules.shape.width)
        finally:
            # If the caller stops early, the next call must not get results of trees that nobody waits for.
            growing.close()

    def _has_room(self, num_growing: int, tree_sizes: Sequence[int]) -> bool:
        """Whether the engine has free slots, and a cache for one more tree of the mean size of those that finished.

        Before any has, the largest size without fallback counts. One tree grows in any case.
        """
        if num_growing == 0:
            return True
        size = sum(tree_sizes) / len(tree_sizes) if tree_sizes else self.rules.shape.max_tree_tokens
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
        self.calls = _EnvironmentCalls(self.rules.turns) if self.rules.turns else None

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
            results = self.calls.pool.poll(wait=not self.requests)
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

    def _take_call(self, calls: "_EnvironmentCalls", result: CallResult) -> Iterator[tuple[int, Tree]]:
        position, key = result.key  # type: ignore[misc] - all keys of these calls are pairs
        if key == "begin":
            builder = calls.begun(position, result, self.sampler.rules_of)
            self._check_chat(builder)
            self._start(position, builder)
        elif key[0] == "close":
            if result.error is not None:
                calls.log("an environment could not be closed", result.error)
        else:
            own = CallResult(key, result.value, result.error)
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
            self.tree_sizes.append(len(tree.prompt_ids) + tree.num_decoded())
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


class _EnvironmentCalls:
    """The calls into the environments of all trees that grow, and how many failed."""

    def __init__(self, turns: TurnRules) -> None:
        self.turns = turns
        self.pool = EnvironmentPool(turns.num_workers, turns.timeout_s)
        self.beginning: dict[int, tuple[Problem, int]] = {}
        self.num_steps = self.num_logged = 0
        self.failed: list[int] = []
        """Positions of the trees of calls that failed."""

    def begin(self, position: int, problem: Problem, seed: int) -> None:
        """Begin an environment for the tree of a problem."""
        self.beginning[position] = problem, seed
        self.pool.submit((position, "begin"), lambda: run_calls(_begun(self.turns, problem)))

    def begun(self, position: int, result: CallResult, rules_of: Callable[[Problem], GrowthRules]) -> TreeBuilder:
        """The tree of an environment that has begun."""
        problem, seed = self.beginning.pop(position)
        if isinstance(result.error, StrategyError):
            raise result.error
        if result.error is not None:
            raise EnvironmentFailedError(
                f"environment: it cannot be begun for problem {problem.id[:40]!r}: {_named(result.error)}"
            ) from result.error
        environment, messages = result.value
        prompt_ids = problem.prompt_ids if messages is None else self.turns.chat.prompt_ids(messages)
        if self.turns.max_prompt_len is not None and len(prompt_ids) > self.turns.max_prompt_len:
            raise EnvironmentFailedError(
                f"environment: its prompt has {len(prompt_ids)} tokens, more than {self.turns.max_prompt_len} "
                "(data.max_prompt_len, or what is left in the model's positions)"
            )
        history = ({"role": "user", "content": problem.prompt},) if messages is None else messages
        return TreeBuilder(
            problem.id, prompt_ids, seed, rules_of(problem), TreeTurns.begun(self.turns, environment, history)
        )

    def submit(self, position: int, turns: TreeTurns) -> None:
        """Make the calls that a tree asks for."""
        for key, call in turns.take_calls():
            self.pool.submit((position, key), call)

    def count(self, position: int, result: CallResult) -> None:
        """Log a call that failed, and raise EnvironmentFailedError if all steps did."""
        if result.error is None:
            self.num_steps += result.key[0] == "step"  # type: ignore[index] - a pair, as in TreeTurns
            return
        self.failed.append(position)
        self.log("an environment failed, and its trajectory ends", result.error)
        if not self.num_steps and len(self.failed) >= MIN_FAILED and len(set(self.failed)) >= MIN_TREES:
            raise EnvironmentFailedError(
                f"environment: each of {len(self.failed)} calls failed: {_named(result.error)}"
            ) from result.error

    def close(self) -> None:
        """End the calls, and close the environments that they were to make."""

        def close_made(result: CallResult) -> None:
            position, key = result.key  # type: ignore[misc] - a pair, as in `submit`
            made = [result.value[0]] if key == "begin" and result.value else []
            made = result.value if key[0] == "fork" and result.value else made
            for environment in made:
                self.pool.submit((position, ("close", None)), environment.close)

        self.pool.close(close_made)

    def log(self, what: str, error: BaseException) -> None:
        """Log one of the first failures."""
        self.num_logged += 1
        if self.num_logged <= MAX_LOGGED:
            logger.warning("environment: %s: %s", what, _named(error))


def _begun(turns: TurnRules, problem: Problem) -> Calls:
    """A new environment and the messages of its prompt."""
    environment: Any = turns.factory()
    if not hasattr(environment, "fork"):
        environment = ReplayFork(turns.factory)
    messages = yield environment.reset(problem)
    return environment, None if messages is None else as_messages(messages)


def _named(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _seeded(problems: Sequence[Problem], seed: int, chosen: Sequence[int]) -> Iterator[tuple[int, Problem, int]]:
    """(position, problem, seed of its tree) of the chosen problems."""
    wanted, num_seen = set(chosen), Counter[str]()
    for position, p in enumerate(problems):
        if position in wanted:
            yield position, p, derive_seed(seed, p.id, num_seen[p.id])
        num_seen[p.id] += 1
