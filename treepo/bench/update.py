"""`treepo bench update`: one optimiser update, packed and with every trajectory on its own, from the same weights."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from treepo.bench.models import Workload, grown_workloads, load_or_make, synthetic_workload
from treepo.bench.rollout_report import describe_machine, describe_model, write_json
from treepo.bench.settings import UpdateBenchConfig, level_sizes
from treepo.bench.timing import Progress
from treepo.bench.update_report import JSON_NAME, PLOT_NAME, UpdateReport, WorkloadReport, compare, measure, write_plot
from treepo.bench.update_variants import NAMES, make_contender
from treepo.errors import SettingError
from treepo.learn.scoring import Scorer
from treepo.model.compatibility import has_plain_head
from treepo.model.policy import Policy, load_policy
from treepo.run.policy import find_base_model
from treepo.utils import ProgressCallback


@dataclass(frozen=True, eq=False)
class UpdateBench:
    """The parts of one measurement. policy: its weights are those that every update starts from."""

    config: UpdateBenchConfig
    policy: Policy
    made: Sequence[Workload]

    def workloads(self) -> Sequence[Workload]:
        """One per value of sharing, or per width."""
        return self.made

    def run(self, workloads: Sequence[Workload], command: str, progress: Progress) -> UpdateReport:
        """Measure one workload after another."""
        config = self.config
        unnamed = "random weights" if config.bench.trees == "synthetic" else "base model"
        return UpdateReport(
            command,
            describe_machine(config.model.device),
            describe_model(config.model.path or unnamed, self.policy.model),
            dataclasses.asdict(config),
            tuple(self._measure(workload, progress) for workload in workloads),
        )

    def close(self) -> None:
        """Nothing is left open: the engine that grew the trees is closed."""

    def _measure(self, workload: Workload, progress: Progress) -> WorkloadReport:
        settings = self.config.bench
        contenders = [make_contender(name, self.policy.model, settings, workload) for name in NAMES]
        figures = compare(measure(contenders, settings.repeats, progress))
        sizes = len(workload.trees), workload.num_trajectories, workload.num_distinct, workload.num_total
        return WorkloadReport(*sizes, figures)


def prepare_bench(config: UpdateBenchConfig, report: ProgressCallback) -> UpdateBench:
    """Load or make the model and the trees.

    report: called while the built-in task's base model is made. Raises SettingError for a setting that cannot work.
    """
    if config.bench.trees == "synthetic":
        return _synthetic(config)
    settings = config.model
    path = settings.path or find_base_model(report)
    policy = load_policy(
        path, dtype=settings.dtype, device=settings.device, trust_remote_code=settings.trust_remote_code
    )
    return UpdateBench(config, policy, list(grown_workloads(config.task, settings, policy, config.bench.seed)))


def keep(report: UpdateReport, out: Path) -> None:
    """Write the JSON file and the plot."""
    write_json(report, out / JSON_NAME)
    write_plot(report.workloads, out / PLOT_NAME)


def _synthetic(config: UpdateBenchConfig) -> UpdateBench:
    settings, seed, max_tokens = config.synthetic, config.bench.seed, config.bench.max_tokens_per_micro_batch
    sizes = [level_sizes(settings.distinct, sharing, settings.leaves) for sharing in settings.sharing]
    longest = max(sum(-(-size // 2**level) for level, size in enumerate(levels)) for levels in sizes)
    policy = load_or_make(config.model, config.architecture, longest, seed)
    if policy.max_len is not None and longest > policy.max_len:
        raise SettingError(
            "synthetic", f"trajectories of {longest} tokens exceed the model's {policy.max_len} positions"
        )
    scorer = Scorer(policy.model, has_plain_head=has_plain_head(policy.model))
    made = [synthetic_workload(levels, settings.count, scorer, max_tokens, seed) for levels in sizes]
    return UpdateBench(config, policy, made)
