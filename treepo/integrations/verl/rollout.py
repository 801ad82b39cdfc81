"""A tree grown over servers that are asked for one segment at a time, and its credit."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np

from treepo.credit import Estimator
from treepo.engine.base import SampleResult
from treepo.grow.builder import Segment, TreeBuilder
from treepo.learn.advantages import estimate_advantages, has_signal
from treepo.tree import Tree

Generate = Callable[[Segment], Awaitable[SampleResult]]
"""Decode one segment; the request id of the result is not read."""


async def grow_tree(builder: TreeBuilder, generate: Generate) -> Tree:
    """Grow one tree, with all segments of a level under way at a time. An error in one cancels the others."""
    under_way: dict[asyncio.Future[SampleResult], int] = {}

    def submit(segments: list[Segment]) -> None:
        for index, segment in enumerate(segments):
            under_way[asyncio.ensure_future(generate(segment))] = index

    submit(builder.start())
    try:
        while under_way:
            done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                submit(builder.receive(under_way.pop(task), task.result()))
    finally:
        for task in under_way:
            task.cancel()
    return builder.tree


def token_advantages(tree: Tree, rewards: np.ndarray, estimator: Estimator) -> list[np.ndarray]:
    """float32 [response length] per leaf, not whitened; nan where the rewards agree, so that nothing can be learned.

    rewards: float64 [L]. Raises StrategyError that names the estimator, ValueError for a reward that is not finite.
    """
    if not np.isfinite(rewards).all():
        raise ValueError(f"rewards must be finite numbers, got {rewards.tolist()}")
    if not has_signal(rewards):
        return [np.full(n, np.nan, np.float32) for n in tree.response_lens()]
    return [row.astype(np.float32) for row in estimate_advantages(estimator, tree, rewards).by_token(tree)]
