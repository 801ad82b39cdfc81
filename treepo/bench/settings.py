"""The settings of `treepo bench`, and the sizes of its synthetic trees."""

from dataclasses import dataclass
from itertools import product
from typing import Annotated, Literal

from pydantic import Field

from treepo.config.schema import Count
from treepo.engine.settings import EngineSettings, ServerSettings, VllmSettings
from treepo.errors import SettingError
from treepo.grow.branching import InitialFork
from treepo.grow.shape import TreeShape
from treepo.model.settings import ModelSettings

TOLERANCE = 0.02
"""Relative tolerance of sizes: a tree has a whole number of tokens."""


Counts = Annotated[tuple[Count, ...], Field(min_length=1)]


def level_sizes(distinct: int, sharing: float, leaves: int) -> list[int]:
    """Tokens of each level of a balanced tree, from the stretch that all trajectories share to the leaves' own.

    With N = sharing x distinct / leaves tokens per trajectory and D forks on the way, all stretches between forks have
    one length but for the first, where much is shared, or the last, where little is. Raises SettingError if there is
    no such tree.
    """
    depth = leaves.bit_length() - 1
    if leaves != 1 << depth:
        raise SettingError("leaves", "must be a power of two", leaves)
    length = sharing * distinct / leaves
    # distinct = length - depth x stretch + (2 + 4 + ... + leaves) x stretch
    stretch = (distinct - length) / (2 * leaves - 2 - depth)
    lengths = [length - depth * stretch, *[stretch] * depth]
    if lengths[0] < stretch:
        # distinct = (1 + 2 + ... + leaves / 2) x stretch + leaves x (length - depth x stretch)
        stretch = (sharing - 1) * distinct / (leaves * (depth - 1) + 1)
        lengths = [*[stretch] * depth, length - depth * stretch]
    sizes = [round(each * 2**level) for level, each in enumerate(lengths)]
    total = sum(size * leaves / 2**level for level, size in enumerate(sizes))
    fits = sizes[0] >= 2 and all(size >= 2**level for level, size in enumerate(sizes))
    if not fits or max(abs(sum(sizes) / distinct - 1), abs(total / (sharing * distinct) - 1)) > TOLERANCE:
        reason = f"no tree of {leaves} leaves has {distinct} distinct tokens and a sharing of {sharing:g}"
        raise SettingError("sharing", reason)
    return sizes


@dataclass(frozen=True)
class GridSettings:
    """The trees: every combination of these lists, each against sequential sampling of as many and as long answers."""

    widths: Counts = (16,)
    """Trajectories per tree."""

    depths: Counts = (6,)
    """Segments in a trajectory."""

    segment_lens: Counts = (32,)
    """Tokens per segment."""

    num_children: Counts = (2,)
    """Children per path when it forks."""

    initial_forks: Counts = (2,)
    """Children of the prompt."""

    aligns: Counts = (1,)
    """Tokens per block of the engine's cache that forks are aligned to; see tree.align."""

    response_lens: tuple[Count, ...] = ()
    """Only combinations with these response lengths, depth x segment_len, are measured; all of them if not given. With
    a single length the grid varies how often a trajectory may fork, not how long it is."""

    def __post_init__(self) -> None:
        for shape in product(self.widths, self.depths, self.segment_lens, self.num_children):
            TreeShape(*shape)
        possible = self._lengths()
        for response_len in self.response_lens:
            if response_len not in possible:
                lengths = f"must be depths x segment_lens of the grid, {sorted(set(possible))}"
                raise SettingError("response_lens", lengths, response_len)

    def trees(self, width: int, response_len: int) -> list[tuple[TreeShape, InitialFork]]:
        """The combinations with this width and length."""
        sizes = product(self.depths, self.segment_lens, self.num_children, self.aligns, self.initial_forks)
        return [
            (TreeShape(width, depth, segment_len, num_children, align=align), InitialFork(low=fork, high=fork))
            for depth, segment_len, num_children, align, fork in sizes
            if depth * segment_len == response_len
        ]

    def workloads(self) -> list[tuple[int, int]]:
        """(width, response length) of the combinations, without repetition."""
        return list(dict.fromkeys(product(self.widths, self.response_lens or self._lengths())))

    def _lengths(self) -> list[int]:
        return [depth * segment_len for depth, segment_len in product(self.depths, self.segment_lens)]


@dataclass(frozen=True)
class PromptSettings:
    """The prompts: random tokens, or problems of the built-in task where answers end."""

    count: Count = 16
    """Prompts, one tree each."""

    min_len: Count = 40
    """Fewest tokens of a random prompt."""

    max_len: Count = 70
    """Most tokens of a random prompt."""

    def __post_init__(self) -> None:
        if self.min_len > self.max_len:
            raise SettingError("min_len", f"must be at most max_len = {self.max_len}", self.min_len)


@dataclass(frozen=True)
class ArchitectureSettings:
    """The model of random weights that is measured if none is given: Qwen2 with the built-in task's tokens."""

    hidden_size: Count = 128
    """Size of the hidden state."""

    ffn_size: Count = 384
    """Size between the two layers of the feed-forward network."""

    num_layers: Count = 4
    """Layers."""

    num_heads: Count = 4
    """Query heads."""

    num_kv_heads: Count = 2
    """Key-value heads."""

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_heads):
            message = f"must be a multiple of twice num_heads = {self.num_heads}"
            raise SettingError("hidden_size", message, self.hidden_size)
        if self.num_heads % self.num_kv_heads:
            message = f"must be a multiple of {self.num_kv_heads} key-value heads"
            raise SettingError("num_heads", message, self.num_heads)


@dataclass(frozen=True)
class RolloutBenchSettings:
    """How it is measured."""

    repeats: Count = 5
    """Measured rounds, after one that warms up; in each, every variant runs once."""

    plain_batches: tuple[Count, ...] = (64, 256)
    """Batch sizes of the plain transformers loop; none leaves it out."""

    answers_end: bool = False
    """Let answers end with an end-of-sequence token: the built-in task's problems and, if no model is given, its base
    model. Otherwise every answer has depth x segment_len tokens."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the weights, the prompts and what is sampled."""


@dataclass(frozen=True)
class RolloutBenchConfig:
    """All settings of `treepo bench rollout`."""

    model: ModelSettings = ModelSettings()
    architecture: ArchitectureSettings = ArchitectureSettings()
    grid: GridSettings = GridSettings()
    prompts: PromptSettings = PromptSettings()
    engine: EngineSettings = EngineSettings()
    vllm: VllmSettings = VllmSettings()
    servers: ServerSettings = ServerSettings()
    bench: RolloutBenchSettings = RolloutBenchSettings()


Sharings = Annotated[tuple[Annotated[float, Field(ge=1)], ...], Field(min_length=1)]


@dataclass(frozen=True)
class SyntheticSettings:
    """Balanced trees of random tokens that fork in two."""

    distinct: Count = 4000
    """Tokens of a tree with its prompt, each shared one counted once."""

    sharing: Sharings = (1.5, 2.0, 4.0, 8.0)
    """Tokens of all trajectories, each with its prompt, over distinct tokens; every value is measured."""

    leaves: Annotated[int, Field(ge=2)] = 16
    """Trajectories per tree, a power of two."""

    count: Count = 1
    """Trees per update."""

    def __post_init__(self) -> None:
        for sharing in self.sharing:
            level_sizes(self.distinct, sharing, self.leaves)


@dataclass(frozen=True)
class TaskSettings:
    """Trees of the built-in task, grown and credited as in the first step of `treepo train`."""

    widths: Counts = (8, 16)
    """Trajectories per tree; every value is measured."""

    problems: Count = 32
    """Trees that are grown; the update is on those whose rewards differ."""


@dataclass(frozen=True)
class UpdateBenchSettings:
    """How it is measured."""

    trees: Literal["synthetic", "task"] = "synthetic"
    """Trees of the section synthetic, on random weights if no model is given, or of the section task, on the built-in
    task's base model if none is given."""

    repeats: Count = 5
    """Measured rounds, after one that warms up; in each, every variant runs once."""

    max_tokens_per_micro_batch: Count = 8192
    """Most tokens of one forward, as in training."""

    gradient_checkpointing: bool = False
    """Keep one hidden state per layer and compute the others again in the backward pass."""

    autocast: Literal["none", "bfloat16"] = "none"
    """Type of the matrix products, over weights of model.dtype, as in training."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the weights and the trees."""


@dataclass(frozen=True)
class UpdateBenchConfig:
    """All settings of `treepo bench update`."""

    model: ModelSettings = ModelSettings()
    architecture: ArchitectureSettings = ArchitectureSettings()
    synthetic: SyntheticSettings = SyntheticSettings()
    task: TaskSettings = TaskSettings()
    bench: UpdateBenchSettings = UpdateBenchSettings()


CONFIGS = {"rollout": RolloutBenchConfig, "update": UpdateBenchConfig}
"""The settings of each measurement."""
