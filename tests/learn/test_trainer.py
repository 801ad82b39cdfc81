"""The loop on a toy task: what is trained on, what is not, and that a seed decides everything."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from tests.learn.reference import flatten, sequences_of
from tests.models import make_tiny_model, make_tiny_tokenizer
from treepo.credit.base import Advantages, Estimator, whiten
from treepo.credit.group import GRPO
from treepo.credit.segment import SPO, TreeRL, ValueDifference
from treepo.credit.subgroup import TreePO
from treepo.data.problem import Outcome, Problem, Verdict
from treepo.engine.base import SampleRequest
from treepo.engine.torch.engine import TorchEngine
from treepo.grow.branching import EvenBranching, InitialFork
from treepo.grow.builder import GrowthRules
from treepo.grow.fallback import Backtrack
from treepo.grow.sampler import TreeSampler
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import StopRules
from treepo.learn.advantages import compute_advantages
from treepo.learn.losses import PPO, Penalties, TokenMean
from treepo.learn.optim import make_optimizer
from treepo.learn.packing import PackedTree
from treepo.learn.scoring import Scorer
from treepo.learn.settings import DynamicSampling, OptimSettings
from treepo.learn.trainer import Trainer
from treepo.learn.updater import Updater, mini_batches
from treepo.model.policy import Policy
from treepo.tree import Tree
from treepo.verify import FinalAnswer

SHAPE = TreeShape(width=6, depth=3, segment_len=4)
Judge = Callable[[Problem, str], float]


def digits_judge(problem: Problem, response: str) -> float:
    """Right if the response has a digit among its first three characters."""
    return float(any(c.isdigit() for c in response[:3]))


def half_judge(problem: Problem, response: str) -> float:
    """As good as random for a random model."""
    return float(sum(map(ord, response)) % 2)


class Alternating:
    """Every other response is right, so that no problem's rewards agree."""

    def __init__(self) -> None:
        self.num_judged = 0

    def __call__(self, problem: Problem, response: str) -> float:
        """Whatever the response."""
        self.num_judged += 1
        return float(self.num_judged % 2)


class ToyTask:
    """Problems 'p0', 'p1', ... with a letter for a prompt, judged by a function of the response."""

    answers = FinalAnswer()

    def __init__(self, judge_one: Judge) -> None:
        self.judge_one = judge_one

    def training_problems(self, step: int, count: int, start: int | None = None) -> list[Problem]:
        """Other prompts in every step."""
        first = step * count if start is None else start
        return [Problem(f"p{i}", "", (1, 20 + (first + i) % 60), "") for i in range(count)]

    def eval_problems(self, count: int) -> list[Problem]:
        """None."""
        return []

    def verify(self, asked: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """What the judge says of each."""
        return [Verdict(self.judge_one(*pair), Outcome.GRADED, None) for pair in asked]

    def are_equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether they are the same text."""
        return [first == second for first, second in pairs]


class NotingUpdater(Updater):
    """An updater that remembers what it was given."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        object.__setattr__(self, "given", [])

    def update(self, trees: Any) -> dict[str, float]:
        """Take note, and update."""
        self.given.append(list(trees))  # pyright: ignore[reportAttributeAccessIssue]
        return super().update(trees)


def make_trainer(
    judge: Judge = half_judge,
    num_mini_batches: int = 2,
    prompts_per_step: int = 5,
    seed: int = 0,
    estimator: Estimator | None = None,
    lr: float = 1e-2,
    max_num_seqs: int = 64,
    dynamic_sampling: DynamicSampling | None = None,
    num_iterations: int = 1,
) -> Trainer:
    """A trainer of a tiny random model."""
    tokenizer = make_tiny_tokenizer()
    policy = Policy(make_tiny_model(vocab_size=len(tokenizer), initializer_range=0.1), tokenizer)
    engine = TorchEngine(policy.model, policy.eos_ids, max_num_seqs)
    rules = GrowthRules(SHAPE, InitialFork(), EvenBranching(), Backtrack(), StopRules(), policy.decode, FinalAnswer())
    optimizer, schedule = make_optimizer(policy.model, OptimSettings(lr=lr, warmup_steps=0))
    updater = NotingUpdater(
        scorer=Scorer(policy.model),
        loss=PPO(),
        aggregation=TokenMean(),
        penalties=Penalties(),
        optimizer=optimizer,
        schedule=schedule,
        max_tokens_per_micro_batch=200,
        max_grad_norm=1.0,
    )
    sampler = TreeSampler(engine, rules)
    return Trainer(
        policy=policy,
        task=ToyTask(judge),
        engine=engine,
        sampler=sampler,
        estimator=estimator or TreePO(),
        updater=updater,
        prompts_per_step=prompts_per_step,
        num_mini_batches=num_mini_batches,
        num_iterations=num_iterations,
        dynamic_sampling=dynamic_sampling or DynamicSampling(),
        seed=seed,
    )


def given(trainer: Trainer) -> list[list[PackedTree]]:
    """The mini-batches of all updates so far."""
    assert isinstance(trainer.updater, NotingUpdater)
    return trainer.updater.given  # pyright: ignore[reportAttributeAccessIssue]


def weights(model: PreTrainedModel) -> list[torch.Tensor]:
    """A copy of all parameters."""
    return [p.detach().clone() for p in model.parameters()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    """Bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def prompts(trees: list[PackedTree]) -> list[tuple[int, ...]]:
    """The first two tokens of each packed tree."""
    return [tuple(tree.token_ids[:2].tolist()) for tree in trees]


def test_problems_whose_rewards_agree_are_dropped() -> None:
    """Always right and always wrong carry no signal: only the others reach the update, in their order."""

    def judge(problem: Problem, response: str) -> float:
        return {"p0": 1.0, "p3": 0.0}.get(problem.id, others(problem, response))

    others = Alternating()
    trainer = make_trainer(judge, num_mini_batches=1)
    problems = trainer.task.training_problems(0, 5)
    metrics = trainer.step(1).metrics
    (trees,) = given(trainer)
    assert prompts(trees) == [problems[i].prompt_ids for i in (1, 2, 4)]
    assert (metrics["problems/grown"], metrics["problems/trained"]) == (5, 3)


@pytest.mark.parametrize(
    ("num_mini_batches", "sizes"), [(1, {5}), (2, {2, 3}), (3, {1, 2}), (5, {1}), (9, {1})], ids=str
)
def test_mini_batches_are_parts_of_the_problems(num_mini_batches: int, sizes: set[int]) -> None:
    """Every tree is in exactly one update; updates are as even as can be and never empty."""
    trainer = make_trainer(Alternating(), num_mini_batches)
    trainer.step(1)
    assert len(given(trainer)) == min(num_mini_batches, 5)
    assert {len(trees) for trees in given(trainer)} == sizes
    expected = [p.prompt_ids for p in trainer.task.training_problems(0, 5)]
    assert [prompt for trees in given(trainer) for prompt in prompts(trees)] == expected


def test_a_step_without_signal_leaves_the_weights() -> None:
    """No update, no update metrics, the same weights bit for bit, and the next step works."""
    answers = {"right": 1.0}

    def judge(problem: Problem, response: str) -> float:
        return answers["right"] if answers else half_judge(problem, response)

    trainer = make_trainer(judge)
    before = weights(trainer.policy.model)
    metrics = trainer.step(1).metrics
    assert given(trainer) == []
    assert same(weights(trainer.policy.model), before)
    assert (metrics["problems/trained"], metrics["reward/mean"]) == (0, 1.0)
    assert not any(name.startswith("update/") for name in metrics)
    answers.clear()
    assert trainer.step(2).metrics["problems/trained"] > 0
    assert not same(weights(trainer.policy.model), before)


def test_a_seed_decides_every_bit() -> None:
    """Two runs of the same seed end with the same weights, and another seed with others."""

    def run(seed: int) -> list[torch.Tensor]:
        trainer = make_trainer(seed=seed)
        for step in (1, 2):
            assert trainer.step(step).metrics["problems/trained"] > 0
        return weights(trainer.policy.model)

    first = run(0)
    assert same(run(0), first)
    assert not same(run(1), first)


def test_trees_do_not_depend_on_the_engines_batch() -> None:
    """With 3 rows or 64 the same trees grow."""
    grown = []
    for max_num_seqs in (3, 64):
        trainer = make_trainer(max_num_seqs=max_num_seqs)
        grown.append(trainer.grow(trainer.task.training_problems(0, 4), step=0))
    assert [sequences_of(t) for t in grown[0]] == [sequences_of(t) for t in grown[1]]


def test_steps_grow_different_trees() -> None:
    """The same problems in another step are answered from other random streams."""
    trainer = make_trainer()
    problems = trainer.task.training_problems(0, 3)
    first, again, later = (trainer.grow(problems, step) for step in (0, 0, 1))
    assert [sequences_of(t) for t in first] == [sequences_of(t) for t in again]
    assert [sequences_of(t) for t in first] != [sequences_of(t) for t in later]


def test_the_engine_follows_the_update() -> None:
    """After a step the engine samples as one made afresh with the trained weights, with its cache forgotten."""
    trainer = make_trainer(lr=0.05)
    request = SampleRequest(0, np.array([1, 25], np.int32), 12, seed=3)

    def sample(engine: Any) -> tuple[list[int], list[float]]:
        engine.submit(request)
        while not (results := engine.step()):
            pass
        return results[0].token_ids.tolist(), results[0].logprobs.tolist()

    before = sample(trainer.engine)
    trainer.step(1)
    after = sample(trainer.engine)
    assert after == sample(TorchEngine(trainer.policy.model, trainer.policy.eos_ids))
    assert after != before


def test_rewards_follow_the_leaves() -> None:
    """Each leaf's response, without the prompt and without special tokens, is judged once, in the order of leaves."""
    trainer = make_trainer(digits_judge)
    problem = trainer.task.training_problems(0, 1)[0]
    tree = trainer.grow([problem], step=0)[0]
    rewards = trainer.verify([problem], [tree])[0].rewards
    texts = [trainer.policy.decode(tree.ids(leaf)[2:].tolist()) for leaf in tree.leaves()]
    assert rewards.tolist() == [digits_judge(problem, text) for text in texts]
    assert len(set(rewards.tolist())) == 2
    assert not any("<" in text and "os>" in text for text in texts)


@pytest.mark.parametrize("estimator", [GRPO(), TreePO(), TreePO(whiten=False), TreeRL(), ValueDifference()], ids=str)
def test_advantages_are_whitened_over_the_trees_that_are_kept(estimator: Estimator) -> None:
    """Each packed tree carries the estimator's advantages, whitened over the tokens of the kept trees if it says so."""
    trainer = make_trainer()
    problems = trainer.task.training_problems(0, 4)
    trees = trainer.grow(problems, step=0)
    rewards = [np.roll([1.0, 0.0, 0.0, 1.0, 0.0, 0.0], i) for i in range(4)]
    rewards[2] = np.ones(SHAPE.width)
    found = compute_advantages(trees, rewards, estimator).by_tree
    kept = [0, 1, 3]
    assert [a is not None for a in found] == [True, True, False, True]
    expected = [estimator(trees[i], rewards[i]) for i in kept]
    if estimator.whiten:
        expected = whiten(
            expected,
            [Advantages(a, estimator.per_node).token_counts(trees[i]) for i, a in zip(kept, expected, strict=True)],
        )
    for i, advantages in zip(kept, expected, strict=True):
        own = found[i]
        assert own is not None
        np.testing.assert_array_equal(own.values, advantages)


def test_nothing_to_credit() -> None:
    """If all rewards of all trees agree nothing is packed, rather than whitened."""
    trainer = make_trainer()
    trees = trainer.grow(trainer.task.training_problems(0, 2), step=0)
    rewards = [np.zeros(SHAPE.width), np.ones(SHAPE.width)]
    assert compute_advantages(trees, rewards, TreePO()).by_tree == [None, None]


def test_metrics_count_what_was_grown_and_trained() -> None:
    """Tokens, rewards and ends by counting in the trees, which the same seed grows again."""

    def judge(problem: Problem, response: str) -> float:
        return 1.0 if problem.id == "p1" else half_judge(problem, response)

    trainer = make_trainer(judge, num_mini_batches=1)
    problems = trainer.task.training_problems(0, 5)
    trees = make_trainer(judge).grow(problems, step=1)
    metrics = trainer.step(1).metrics
    rewards = [verified.rewards for verified in trainer.verify(problems, trees)]
    trained = [tree for tree, values in zip(trees, rewards, strict=True) if len(set(values.tolist())) == 2]
    assert 0 < len(trained) < 5
    sequences = [sequences_of(tree) for tree in trees]
    lengths = [len(s) - 2 for tree in sequences for s in tree]

    def tokens(grown: list[Tree]) -> int:
        return sum(len(flatten(sequences_of(t))) for t in grown)

    assert len(lengths) == 5 * SHAPE.width
    assert metrics["tokens/total"] == sum(lengths)
    assert metrics["tokens/decoded"] == sum(len(node.token_ids) for tree in trees for node in tree.nodes[1:])
    assert metrics["tokens/distinct"] == tokens(trees) - 2 * len(trees)
    assert metrics["tokens/forwarded"] == tokens(trained)
    assert metrics["tokens/unpacked"] == sum(len(s) for tree in trained for s in sequences_of(tree))
    assert metrics["completions/length/mean"] == pytest.approx(np.mean(lengths))
    assert metrics["completions/length/max"] == max(lengths)
    stops = [tree.nodes[leaf].stop for tree in trees for leaf in tree.leaves()]
    for reason in set(stops):
        assert metrics[f"stop/{reason}"] == pytest.approx(stops.count(reason) / len(stops))
    assert sum(value for name, value in metrics.items() if name.startswith("stop/")) == pytest.approx(1.0)
    assert metrics["reward/mean"] == pytest.approx(np.mean(rewards))
    slots = metrics["engine/steps"] * trainer.engine.max_num_seqs  # pyright: ignore[reportAttributeAccessIssue]
    assert metrics["engine/utilisation"] == pytest.approx(metrics["tokens/decoded"] / slots)
    prefixes = {tuple(ids[:end]) for tree in trees for ids in [tree.prompt_ids.tolist()] for end in range(1, len(ids))}
    assert metrics["engine/prefilled"] == len(prefixes), (
        "the last token of a prompt is decoded from, what is shared once"
    )
    assert metrics["time/step_s"] >= metrics["time/grow_s"] + metrics["time/update_s"] > 0


def test_the_first_update_of_a_step_is_on_policy() -> None:
    """The engine and the trainer score the same tokens alike, so before any update nothing is clipped."""
    metrics = make_trainer(num_mini_batches=1).step(1).metrics
    assert metrics["clip_ratio/region_mean"] == 0
    assert 0 <= metrics["update/approx_kl"] < 1e-9


def test_later_mini_batches_are_off_policy() -> None:
    """The update metrics are means over a step's mini-batches, and the later ones see moved weights."""
    trainer = make_trainer(num_mini_batches=3, lr=0.03)
    assert trainer.step(1).metrics["update/approx_kl"] > 1e-6


def test_several_epochs_go_over_the_same_trees() -> None:
    """Each mini-batch comes once per epoch, and later epochs are off policy: ratios refer to what was sampled."""
    trainer = make_trainer(Alternating(), num_mini_batches=2, num_iterations=3)
    metrics = trainer.step(1).metrics
    batches = given(trainer)
    assert len(batches) == 6
    assert [prompts(b) for b in batches[:2]] == [prompts(b) for b in batches[2:4]] == [prompts(b) for b in batches[4:]]
    once = make_trainer(Alternating(), num_mini_batches=2).step(1).metrics
    assert metrics["update/approx_kl"] > once["update/approx_kl"]


def test_a_learnable_task_is_learned() -> None:
    """Responses that begin with a digit are rewarded and become more frequent."""
    trainer = make_trainer(digits_judge, prompts_per_step=8, lr=5e-3)
    rewards = [trainer.step(step).metrics["reward/mean"] for step in range(1, 31)]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.3, rewards


@pytest.mark.parametrize("estimator", [SPO(), TreeRL(), ValueDifference()], ids=str)
def test_a_step_with_an_advantage_per_node(estimator: Estimator) -> None:
    """What is trained on has an advantage for each node, and packed and apart they move the weights alike."""
    weights = []
    for packing in (True, False):
        trainer = make_trainer(Alternating(), estimator=estimator, num_mini_batches=1)
        object.__setattr__(trainer.updater, "packing", packing)
        result = trainer.step(1)
        assert [problem.id for problem in result.problems] == [tree.problem_id for tree in result.trees]
        for tree, advantages in zip(result.trees, result.advantages, strict=True):
            assert advantages is not None and len(advantages.values) == len(tree.nodes)
        weights.append(torch.cat([p.detach().flatten() for p in trainer.policy.model.parameters()]))
        assert result.metrics["update/grad_norm"] > 0
    torch.testing.assert_close(*weights, rtol=0, atol=1e-3)


def test_mini_batches_of_nothing() -> None:
    """No trees, no mini-batches."""
    assert mini_batches([], [], num_trees=0, num_batches=3) == []


def test_equal_parts() -> None:
    """Numbers of trees differ by at most one, whatever they are, and the parts of a tree stay together."""
    trees: list[Any] = [[2 * i, 2 * i + 1] if i % 3 == 0 else [2 * i] for i in range(23)]
    for count in range(1, 30):
        parts = mini_batches(trees, range(23), num_trees=23, num_batches=count)
        assert [x for part in parts for x in part] == [x for tree in trees for x in tree]
        sizes = sorted(len({x // 2 for x in part}) for part in parts)
        assert len(parts) == min(count, 23) and sizes[0] >= 1 and sizes[-1] - sizes[0] <= 1
        assert all(one[-1] < other[0] for one, other in pairwise(parts))  # pyright: ignore[reportOperatorIssue]


class BackwardSampler:
    """Trees that finish in the reverse of the order in which they were asked for."""

    def grow(self, problems: list[Problem], seed: int, chosen: Sequence[int], progress: Any) -> Any:
        """Yield the last one first."""
        for i in reversed(chosen):
            yield i, Tree.from_prompt(problems[i].id, np.array(problems[i].prompt_ids), seed)


def test_trees_come_back_in_the_order_of_their_problems() -> None:
    """Whatever order they finish in: rewards are matched to trees by place."""
    problems = ToyTask(half_judge).training_problems(0, 5)
    trainer: Any = make_trainer()
    trees = replace(trainer, sampler=BackwardSampler(), seed=0).grow(problems, step=1)
    assert [tree.problem_id for tree in trees] == [p.id for p in problems]


@pytest.mark.parametrize("estimator", [TreePO(), ValueDifference()])
def test_a_step_tells_its_groups_by_depth(estimator: Estimator) -> None:
    """Every problem has a group at depth 0, and those that were trained on have advantages."""
    metrics = make_trainer(estimator=estimator).step(1).metrics
    no_signal = (metrics["problems/solved"] + metrics["problems/failed"]) / metrics["problems/grown"]
    assert (metrics["groups/depth_0/num"], metrics["groups/depth_0/frac_reward_zero_std"]) == (
        1,
        pytest.approx(no_signal),
    )
    assert metrics["advantages/depth_1/std"] > 0
    assert 0 < metrics["advantages/within"] <= 1
