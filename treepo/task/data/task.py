"""Problems of several sets, asked in a seeded order."""

from dataclasses import dataclass
from itertools import islice

from treepo.seeds import derive_seed
from treepo.task.data.order import Mixture, epoch_indices
from treepo.task.data.sets import ProblemSet
from treepo.task.problem import Problem


@dataclass(frozen=True)
class DataTask:
    """What to ask when; who says what is right is another's affair."""

    train: tuple[ProblemSet, ...]
    """Sets to train on, with at least one problem; with weights each of them has one."""

    held_out: tuple[ProblemSet, ...]
    """Sets to evaluate on, which share no question with those."""

    weights: tuple[float, ...] = ()
    """How often each set is drawn from; if not given every problem comes once in each epoch over all sets."""

    seed: int = 0
    """Of the order."""

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.train):
            raise ValueError(f"weights: {len(self.weights)} numbers for {len(self.train)} sets to train on")
        if self.weights:
            Mixture(self.weights)
            if empty := [s.name for s in self.train if not s.problems]:
                raise ValueError(f"weights: no problem is left to train on in {empty}")

    def training_problems(self, step: int, count: int) -> list[Problem]:
        """Problems step x count .. (step + 1) x count - 1 of an endless sequence; see Task.

        With weights each set has epochs of its own, seeded by its place among the sets.
        """
        positions = range(step * count, (step + 1) * count)
        if len(self.train) == 1 or not self.weights:
            problems = [problem for s in self.train for problem in s.problems]
            return [problems[i] for i in epoch_indices(self.seed, positions, len(problems))]
        asked: list[Problem | None] = [None] * count
        draws = Mixture(self.weights, self.seed).draws(positions)
        for index, s in enumerate(self.train):
            places = [place for place, (drawn, _) in enumerate(draws) if drawn == index]
            seed = derive_seed(self.seed, "set", index)
            order = epoch_indices(seed, (draws[place][1] for place in places), len(s.problems))
            for place, i in zip(places, order, strict=True):
                asked[place] = s.problems[i]
        problems = [problem for problem in asked if problem is not None]
        assert len(problems) == count, "every position is drawn from one set"
        return problems

    def held_out_problems(self, count: int) -> list[Problem]:
        """The first problems of every held-out set, taken in turns until there are `count`; see Task."""
        longest = max((len(s.problems) for s in self.held_out), default=0)
        turns = (s.problems[i] for i in range(longest) for s in self.held_out if i < len(s.problems))
        # Not count alone: what islice takes is bounded.
        return list(islice(turns, min(count, sum(len(s.problems) for s in self.held_out))))
