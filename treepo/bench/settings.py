"""Every setting of `treepo bench rollout`."""

from dataclasses import dataclass
from itertools import product
from typing import Annotated

from pydantic import Field

from treepo.engine.servers import ServerSettings
from treepo.engine.vllm import VllmSettings
from treepo.grow import InitialFork, TreeShape
from treepo.settings import Count, EngineSettings, ModelSettings

Counts = Annotated[tuple[Count, ...], Field(min_length=1)]


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
        possible = {depth * segment_len for depth, segment_len in product(self.depths, self.segment_lens)}
        for response_len in self.response_lens:
            if response_len not in possible:
                raise ValueError(
                    f"response_lens must be depths x segment_lens of the grid, {sorted(possible)}, got {response_len}"
                )

    def trees(self, width: int, response_len: int) -> list[tuple[TreeShape, InitialFork]]:
        """The combinations with this width and length."""
        shapes = [
            TreeShape(width, depth, segment_len, num_children, align=align)
            for depth, segment_len, num_children, align in product(
                self.depths, self.segment_lens, self.num_children, self.aligns
            )
            if depth * segment_len == response_len
        ]
        return [(shape, InitialFork(low=fork, high=fork)) for shape in shapes for fork in self.initial_forks]

    def workloads(self) -> list[tuple[int, int]]:
        """(width, response length) of the combinations, without repetition."""
        lengths = self.response_lens or [d * segment_len for d, segment_len in product(self.depths, self.segment_lens)]
        return list(dict.fromkeys(product(self.widths, lengths)))


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
            raise ValueError(f"min_len..max_len must be a range, got {self.min_len}..{self.max_len}")


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
            raise ValueError(
                f"hidden_size must be a multiple of twice num_heads = {self.num_heads}, got {self.hidden_size}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads must be a multiple of {self.num_kv_heads} key-value heads, got {self.num_heads}"
            )


@dataclass(frozen=True)
class BenchSettings:
    """How it is measured."""

    repeats: Count = 5
    """Measured rounds, after one that warms up; in each, every contender runs once."""

    plain_batches: tuple[Count, ...] = (64, 256)
    """Batch sizes of the plain transformers loop; none leaves it out."""

    answers_end: bool = False
    """Let answers end with an end-of-sequence token: the built-in task's problems and, if no model is given, its base
    model. Otherwise every answer has depth x segment_len tokens."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Of the weights, the prompts and what is sampled."""


@dataclass(frozen=True)
class BenchConfig:
    """All settings of `treepo bench rollout`."""

    model: ModelSettings = ModelSettings()
    architecture: ArchitectureSettings = ArchitectureSettings()
    grid: GridSettings = GridSettings()
    prompts: PromptSettings = PromptSettings()
    engine: EngineSettings = EngineSettings()
    vllm: VllmSettings = VllmSettings()
    servers: ServerSettings = ServerSettings()
    bench: BenchSettings = BenchSettings()
