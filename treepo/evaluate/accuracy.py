"""How often a policy is right on held-out problems."""

from collections.abc import Sequence

import numpy as np

from treepo.engine import Engine, Sampling
from treepo.evaluate.answering import judge
from treepo.grow import Rules, TreeSampler
from treepo.grow.stopping import Decode
from treepo.task.problem import Problem, Task


def accuracy(
    engine: Engine,
    task: Task,
    problems: Sequence[Problem],
    decode: Decode,
    response_len: int,
    num_samples: int = 1,
    temperature: float = 1.0,
    seed: int = 0,
) -> float:
    """Mean reward over `num_samples` independent answers per problem; temperature 0 is greedy."""
    sampler = TreeSampler(engine, Rules.star(num_samples, response_len, decode), Sampling(temperature))
    grown = [(problems[i], tree) for i, tree in sampler.grow(problems, seed)]
    return float(np.mean([verdict.correct for one in judge(task, grown, decode) for verdict in one.verdicts]))
