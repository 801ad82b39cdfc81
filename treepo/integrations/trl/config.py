"""TRL's settings, and those of trees besides."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false, reportAttributeAccessIssue=false

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

from trl import GRPOConfig

from treepo.config.load import resolve_as
from treepo.credit import Estimator, TreePO
from treepo.data.problem import Decode
from treepo.engine.settings import EngineSettings
from treepo.errors import SettingError
from treepo.grow import Branching, Fallback, GrowthRules, InitialFork, NoFallback, Stopping, TreeShape
from treepo.integrations.growth import GrowthSections, TreeSize

NAMES = {
    "width": "num_generations",
    "max_response_len": "max_completion_length",
    **{name: f"tree_{name}" for name in ("depth", "segment_len", "num_children")},
}
"""The settings for the size of a tree."""


@dataclass(frozen=True)
class TreeSections(GrowthSections):
    """The settings of trees that a name, a table or an object stands for."""

    estimator: Estimator = TreePO()
    engine: EngineSettings = EngineSettings()


SECTIONS = tuple(f.name for f in fields(TreeSections))

ENGINE = "paths are sampled by the engine of trees"
ESTIMATOR = (
    "the estimator decides: 'GRPO' divides by a group's std, 'REINFORCEPlusPlus' by the batch's, 'DrGRPO' by none"
)

TRLS_OWN = {
    "use_transformers_continuous_batching": (False, ENGINE),
    "repetition_penalty": (1.0, ENGINE),
    "scale_rewards": ("group", ESTIMATOR),
    "multi_objective_aggregation": ("sum_then_normalize", ESTIMATOR),
}
"""Settings of TRL that trees have no use for: the value that each keeps, and why."""

LIMITS = ("max_num_seqs", "max_num_batched_tokens", "max_cache_tokens", "num_scheduler_steps")
"""Settings of the engine that have no counterpart in TRL."""


@dataclass
class TreeGRPOConfig(GRPOConfig):
    """GRPOConfig with the settings of trees (docs/from_trl.md).

    `num_generations` is the number of a tree's leaves, `max_completion_length` the longest path; `temperature`,
    `top_k`, `top_p` and `min_p` are those of sampling. A strategy is given by its name ("SPO"), as a table
    ({"use": "GRPO", "eps": 1e-4}) or as an object. Raises SettingError.
    """

    _VALID_DICT_FIELDS = [*GRPOConfig._VALID_DICT_FIELDS, *SECTIONS]  # noqa: RUF012 - as in TRL

    tree_depth: int = field(default=8, metadata={"help": "Most segments in a completion."})
    tree_segment_len: int | None = field(
        default=None,
        metadata={"help": "Most tokens of a segment; max_completion_length / tree_depth, rounded up, if not given."},
    )
    tree_num_children: int = field(default=2, metadata={"help": "Children of a path when it forks."})
    initial_fork: InitialFork | str | dict[str, Any] | None = field(
        default=None, metadata={"help": "Children of the prompt, as {'low': 2, 'high': 8}; 2 if not given."}
    )
    branching: Branching | str | dict[str, Any] | None = field(
        default=None, metadata={"help": "How many children each active path gets; EvenBranching if not given."}
    )
    fallback: Fallback | str | dict[str, Any] | None = field(
        default=None, metadata={"help": "Where a tree without active paths grows again; Backtrack if not given."}
    )
    stopping: Stopping | str | dict[str, Any] | None = field(
        default=None, metadata={"help": "Why a path ends besides EOS; at a repetition if not given."}
    )
    estimator: Estimator | str | dict[str, Any] | None = field(
        default=None, metadata={"help": "From rewards to advantages; TreePO if not given."}
    )
    engine: EngineSettings | str | dict[str, Any] | None = field(
        default=None,
        metadata={"help": "Limits of the engine over the trained model: max_num_seqs, max_cache_tokens, ..."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_trls_own()
        self.shape(self.num_generations or 0)
        self._check_sections(self.sections())
        if self.num_rows % (self.num_generations or 1):
            raise SettingError(
                "per_device_train_batch_size",
                f"times steps_per_generation ({self.steps_per_generation}) must be a multiple of num_generations = "
                f"{self.num_generations}, so that a process has whole trees",
                self.per_device_train_batch_size,
            )
        if self.eval_strategy != "no":
            self.check_eval()

    def _check_trls_own(self) -> None:
        """Raise SettingError for settings of TRL that trees have no use for."""
        for name, (value, instead) in TRLS_OWN.items():
            if getattr(self, name) != value:
                raise SettingError(name, f"trees need {value!r}: {instead}", getattr(self, name))
        if self.generation_kwargs and not self.use_vllm:
            message = "is for transformers' generate, which trees do not call; use temperature, top_k, top_p, min_p"
            raise SettingError("generation_kwargs", message, self.generation_kwargs)

    def _check_sections(self, sections: TreeSections) -> None:
        """Raise SettingError for strategies that TRL's trainer cannot follow."""
        sections.check("estimator", sections.estimator, self.tree_depth)
        if isinstance(sections.fallback, NoFallback):
            message = "a tree must have num_generations leaves, which NoFallback does not promise; use Backtrack"
            raise SettingError("fallback", message)
        for f in fields(EngineSettings):
            value = getattr(sections.engine, f.name)
            if f.name not in LIMITS and value != f.default:
                place = "use_vllm" if f.name == "kind" else f.name
                raise SettingError(f"engine.{f.name}", f"TRL has its own setting, {place}", value)

    @property
    def num_rows(self) -> int:
        """Completions that a process generates at a time."""
        return self.per_device_train_batch_size * (self.steps_per_generation or 1)

    def check_eval(self) -> None:
        """Raise SettingError if an evaluation would divide the completions of a prompt among processes or batches."""
        group = self.num_generations_eval or self.num_generations or 1
        if self.per_device_eval_batch_size % group:
            message = f"must be a multiple of the {group} completions of a prompt (num_generations_eval)"
            raise SettingError("per_device_eval_batch_size", message, self.per_device_eval_batch_size)

    def sections(self) -> TreeSections:
        """The strategies and the engine's limits; raises SettingError."""
        given = {name: value for name in SECTIONS if (value := getattr(self, name)) is not None}
        return resolve_as(
            TreeSections, {n: {"use": value} if isinstance(value, str) else value for n, value in given.items()}
        )

    def shape(self, width: int) -> TreeShape:
        """The size of a tree with so many leaves; raises SettingError."""
        size = TreeSize(self.tree_depth, self.tree_segment_len, self.tree_num_children)
        return size.shape(width, self.max_completion_length or 0, NAMES)

    def rules(self, width: int, decode: Decode) -> GrowthRules:
        """How trees grow in training."""
        return self.sections().rules(self.shape(width), decode)

    def eval_rules(self, width: int, decode: Decode) -> GrowthRules:
        """Independent completions, as TRL evaluates."""
        return GrowthRules.star(width, self.max_completion_length or 0, decode)

    def to_dict(self) -> dict[str, Any]:
        return {name: _plain(value) if name in SECTIONS else value for name, value in super().to_dict().items()}


def _plain(value: Any) -> Any:
    """A strategy as JSON can hold it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"use": type(value).__name__} | asdict(value)
    return value if value is None or isinstance(value, str | dict) else repr(value)
