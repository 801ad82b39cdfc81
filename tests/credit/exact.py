"""Every tree that can grow under a tiny policy, with its probability: expectations without sampling."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from math import factorial, log

import numpy as np

from treepo.engine.base import SampleResult
from treepo.grow.builder import GrowthRules, Segment, TreeBuilder
from treepo.tree import Tree
from treepo.utils.numeric import derive_seed

EOS = 0


@dataclass
class Chance:
    """Takes the choices it is told and the first possible one after them; stands in for a numpy Generator."""

    told: list[int]
    taken: list[tuple[int, int]] = field(default_factory=list)
    probability: float = 1.0

    def choose(self, probabilities: Sequence[float]) -> int:
        """An index; all indices have their turn."""
        place = len(self.taken)
        index = self.told[place] if place < len(self.told) else 0
        self.taken.append((index, len(probabilities)))
        self.probability *= probabilities[index]
        return index

    def integers(self, low: int, high: int) -> int:
        """Uniform in low..high - 1."""
        return low + self.choose([1 / (high - low)] * (high - low))

    def permutation(self, n: int) -> np.ndarray:
        """Uniform."""
        orders = list(permutations(range(n)))
        return np.array(orders[self.choose([1 / factorial(n)] * len(orders))], int)

    def next(self) -> list[int] | None:
        """What to tell the next one; None if every choice had its turn."""
        taken = list(self.taken)
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        return [i for i, _ in taken[:-1]] + [taken[-1][0] + 1] if taken else None


@dataclass(frozen=True)
class TinyPolicy:
    """Tokens 0 (EOS) .. num_tokens - 1 with probabilities that depend on all tokens before; ends: whether EOS may."""

    num_tokens: int = 2
    ends: bool = True
    seed: int = 0

    def __call__(self, response: Sequence[int]) -> list[float]:
        shares = [0.2 + derive_seed(self.seed, *response, -1, i) / 2**63 for i in range(self.num_tokens)]
        if not self.ends:
            shares[EOS] = 0.0
        return [share / sum(shares) for share in shares]

    def decode(self, segment: Segment, chance: Chance) -> SampleResult:
        """A segment by chance."""
        ids: list[int] = []
        logprobs = []
        while len(ids) < segment.max_new_tokens and ids[-1:] != [EOS]:
            probabilities = self([*segment.prefix_ids[1:].tolist(), *ids])
            first = 0 if self.ends else 1
            ids.append(first + chance.choose(probabilities[first:]))
            logprobs.append(log(probabilities[ids[-1]]))
        return SampleResult(0, np.array(ids, np.int32), np.array(logprobs, np.float32), ids[-1] == EOS)

    def mean(self, f: Callable[[Sequence[int]], float], most: int, fewest: int = 1, start: Sequence[int] = ()) -> float:
        """The exact mean of f over single paths of at most `most` tokens that begin with `start`, given that they have
        at least `fewest`."""

        def total(response: tuple[int, ...]) -> np.ndarray:
            if len(response) == most or response[-1:] == (EOS,):
                return (len(response) >= fewest) * np.array([f(response), 1.0])
            shares = enumerate(self(response))
            return np.sum([share * total((*response, i)) for i, share in shares if share > 0], axis=0)

        value, probability = total(tuple(start))
        return float(value / probability)


def all_trees(rules: GrowthRules, policy: TinyPolicy) -> Iterator[tuple[float, Tree]]:
    """Every outcome of growing and its probability; the same tree may come more than once."""
    told: list[int] | None = []
    while told is not None:
        chance = Chance(told)
        growth = TreeBuilder("p", [7], 0, rules)
        growth.rng = chance
        segments = growth.start()
        while segments:
            results = [policy.decode(segment, chance) for segment in segments]
            segments = [growth.receive(i, result) for i, result in enumerate(results)][-1]
        yield chance.probability, growth.tree
        told = chance.next()


def value_of(response: Sequence[int]) -> float:
    """An arbitrary function of a trajectory, in 0..1, that no shape nor length explains."""
    return derive_seed("value", *map(int, response)) / 2**63


def values_of(tree: Tree) -> np.ndarray:
    """`value_of` each leaf."""
    return np.array([value_of(t.token_ids.tolist()) for t in tree.trajectories()])
