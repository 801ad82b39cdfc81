"""`treepo bench rollout`: trees, sequential sampling and the plain transformers loop on the same model and prompts."""

import dataclasses
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from treepo.bench.models import load_or_make, random_ids
from treepo.bench.rollout_report import (
    JSON_NAME,
    PLOT_NAME,
    RolloutReport,
    WorkloadReport,
    describe_machine,
    describe_model,
    write_json,
    write_plot,
)
from treepo.bench.rollout_variants import Contender, PlainContender, TreeContender
from treepo.bench.settings import PromptSettings, RolloutBenchConfig
from treepo.bench.timing import SEQUENTIAL, Progress, compare, measure
from treepo.data.problem import Problem
from treepo.engine.base import Engine
from treepo.errors import SettingError
from treepo.grow.branching import EvenBranching, InitialFork
from treepo.grow.builder import GrowthRules
from treepo.grow.fallback import Backtrack
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import StopRules
from treepo.model.policy import Policy
from treepo.run.engine import build_engine, check_align
from treepo.run.policy import find_base_model
from treepo.tasks.chain_sums import ANSWERS, ChainSums
from treepo.utils import ProgressCallback
from treepo.utils.rng import derive_seed


@dataclass(frozen=True)
class Workload:
    """Contenders that sample as many trajectories, `width` per problem, of as many tokens."""

    width: int
    response_len: int
    contenders: list[Contender]


@dataclass(frozen=True)
class RolloutBench:
    """The parts of one measurement. plain_model: the same weights, as transformers runs them."""

    config: RolloutBenchConfig
    policy: Policy
    plain_model: PreTrainedModel
    engine: Engine
    problems: Sequence[Problem]

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """What ends an answer; nothing where all are to have the same length."""
        return self.policy.eos_ids if self.config.bench.answers_end else ()

    def workloads(self) -> list[Workload]:
        """One per width and response length of the grid: the plain loops, sequential sampling, the trees."""
        return [Workload(*sizes, self._contenders(*sizes)) for sizes in self.config.grid.workloads()]

    def _contenders(self, width: int, response_len: int) -> list[Contender]:
        settings, temperature = self.config.bench, self.config.engine.temperature
        plain = [
            PlainContender(batch, self.plain_model, self.problems, width, response_len, temperature, self.eos_ids)
            for batch in settings.plain_batches
        ]
        star = GrowthRules.star(width, response_len, self.policy.decode, ANSWERS)
        trees = [self._tree(*sizes) for sizes in self.config.grid.trees(width, response_len)]
        return [*plain, self._over_engine(SEQUENTIAL, star), *trees]

    def _tree(self, shape: TreeShape, fork: InitialFork) -> TreeContender:
        answer = "answer_and_eos" if self.config.bench.answers_end else "never"
        stopping = StopRules(answer=answer, repetition="never")
        rules = GrowthRules(shape, fork, EvenBranching(), Backtrack(), stopping, self.policy.decode, ANSWERS)
        aligned = f" a{shape.align}" if shape.align > 1 else ""
        name = f"tree {shape.depth}x{shape.segment_len} k{fork.low} b{shape.num_children}{aligned}"
        return self._over_engine(name, rules)

    def _over_engine(self, name: str, rules: GrowthRules) -> TreeContender:
        temperature, seed = self.config.engine.temperature, self.config.bench.seed
        return TreeContender(name, self.engine, self.policy.model, rules, self.problems, temperature, seed)

    def run(self, workloads: Sequence[Workload], command: str, progress: Progress) -> RolloutReport:
        """Measure one workload after another."""
        unnamed = "base model" if self.config.bench.answers_end else "random weights"
        return RolloutReport(
            command,
            describe_machine(self.config.model.device),
            describe_model(self.config.model.path or unnamed, self.policy.model),
            dataclasses.asdict(self.config),
            tuple(self._measure(workload, progress) for workload in workloads),
        )

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def _measure(self, workload: Workload, progress: Progress) -> WorkloadReport:
        measured = measure(workload.contenders, self.config.bench.repeats, progress)
        sequential = next(m for m in measured if m.name == SEQUENTIAL)
        figures = tuple(compare(m, sequential) for m in measured)
        return WorkloadReport(len(self.problems), workload.width, workload.response_len, figures)


def prepare_bench(config: RolloutBenchConfig, report: ProgressCallback) -> RolloutBench:
    """Load or make model, prompts and engine.

    report: called while the built-in task's base model is made. Raises SettingError for a setting that cannot work.
    """
    policy = _policy(config, report)
    problems = _problems(config, policy)
    needed = max(len(p.prompt_ids) for p in problems) + max(length for _, length in config.grid.workloads())
    if policy.max_len is not None and needed > policy.max_len:
        raise SettingError(
            "grid", f"prompts and responses of {needed} tokens exceed the model's {policy.max_len} positions"
        )
    # A copy, so that nothing that the engine does to its model touches the plain loop.
    plain_model = deepcopy(policy.model)
    plain_model.set_attn_implementation("sdpa")
    eos_ids = policy.eos_ids if config.bench.answers_end else ()
    if config.engine.kind == "vllm":
        for align in config.grid.aligns:
            check_align("grid.aligns", align, config.vllm.block_size_on(policy.model.device.type))
    engine = build_engine(
        policy,
        config.engine,
        vllm=config.vllm,
        servers=config.servers,
        max_model_len=needed,
        eos_ids=eos_ids,
        trust_remote_code=config.model.trust_remote_code,
    )
    if needed > engine.max_model_len:
        engine.close()
        raise SettingError(
            "grid",
            f"prompts and responses of {needed} tokens do not fit into the engine's {engine.max_model_len} "
            "(engine.max_cache_tokens, vllm.max_model_len, or the servers' max-model-len)",
        )
    return RolloutBench(config, policy, plain_model, engine, problems)


def keep(report: RolloutReport, out: Path) -> None:
    """Write the JSON file and the plot."""
    write_json(report, out / JSON_NAME)
    write_plot(report.workloads, out / PLOT_NAME)


def _policy(config: RolloutBenchConfig, report: ProgressCallback) -> Policy:
    """The model that is given, else the built-in task's base model or random weights."""
    settings = config.model
    if config.bench.answers_end and not settings.path:
        settings = dataclasses.replace(settings, path=find_base_model(report))
    longest = config.prompts.max_len + max(length for _, length in config.grid.workloads())
    return load_or_make(settings, config.architecture, longest, config.bench.seed)


def _problems(config: RolloutBenchConfig, policy: Policy) -> list[Problem]:
    count, seed = config.prompts.count, config.bench.seed
    if not config.bench.answers_end:
        return random_problems(config.prompts, policy.model.config.vocab_size, seed)
    if not isinstance(policy.tokenizer.bos_token_id, int):
        raise SettingError("bench.answers_end", "the built-in task's problems need a tokenizer with a bos token")
    return ChainSums(policy.tokenizer, seed).training_problems(0, count)


def random_problems(settings: PromptSettings, vocab_size: int, seed: int) -> list[Problem]:
    """Prompts of random tokens and lengths."""
    rng = np.random.default_rng(derive_seed(seed, "prompts"))
    lengths = rng.integers(settings.min_len, settings.max_len + 1, settings.count)
    prompts = [tuple(random_ids(rng, vocab_size, n).tolist()) for n in lengths]
    return [Problem(f"prompt {i}", "", ids, "") for i, ids in enumerate(prompts)]
