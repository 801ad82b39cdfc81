"""The tables of `treepo bench`, 80 columns wide."""

from collections.abc import Callable
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from treepo.report.bench_results import RolloutWorkload, UpdateWorkload
from treepo.utils.text import pluralize

ROLLOUT_CAPTION = """tree DxS kK bB: depth D, segments of S tokens, K children of the prompt,
B per fork; aA: forks aligned to blocks of A tokens. tokens/s: decoded (and with
the prompt tokens computed). ideal: over sequential, by tokens decoded (and with
prompt tokens)."""

UPDATE_CAPTION = """tokens: forwarded, with padding. s: packing and the update.
MiB: most memory of tensors beyond what was there before.
gradient: the largest difference to padded's, relative.
x: over packed; of ideal: that over the ratio of tokens."""

Columns = tuple[tuple[str, Callable[[Any], str]], ...]
"""Title and text of each column, of a variant's statistics."""

ROLLOUT_COLUMNS: Columns = (
    ("traj/s", lambda v: f"{v.trajectories_per_s:,.1f}"),
    ("tokens/s", lambda v: f"{v.decoded_per_s:,.0f} ({v.forwarded_per_s:,.0f})"),
    ("dis-\ntinct", lambda v: f"{v.distinct_ratio:.0%}"),
    ("KV\npeak", lambda v: "-" if v.counts.kv_peak is None else f"{v.counts.kv_peak:,}"),
    ("over\nseq.", lambda v: f"{v.over_sequential:.2f}"),
    ("ideal", lambda v: f"{v.ideal:.2f} ({v.ideal_with_prompts:.2f})"),
    ("of the\nideal", lambda v: f"{v.achieved:.2f}"),
)

UPDATE_COLUMNS: Columns = (
    ("tokens", lambda v: f"{v.num_forwarded:,}"),
    ("s", lambda v: f"{median(v.seconds):.3f}"),
    ("MiB", lambda v: f"{v.peak_bytes / 2**20:,.1f}"),
    ("gra-\ndient", lambda v: f"{v.gradient_difference:.0e}"),
    ("tokens\nx", lambda v: f"{v.token_ratio:.2f}"),
    ("time\nx", lambda v: f"{v.time_ratio:.2f}"),
    ("of\nideal", lambda v: f"{v.time_of_ideal:.2f}"),
    ("MiB\nx", lambda v: f"{v.memory_ratio:.2f}"),
    ("of\nideal", lambda v: f"{v.memory_of_ideal:.2f}"),
)


def table(workload: RolloutWorkload | UpdateWorkload) -> Table:
    """One row per variant."""
    if isinstance(workload, RolloutWorkload):
        title = f"{workload.num_prompts} prompts, {workload.width} trajectories each, {workload.response_len} tokens"
        caption, columns = ROLLOUT_CAPTION, ROLLOUT_COLUMNS
    else:
        title = (
            f"{pluralize(workload.num_trees, 'tree')}, {workload.num_trajectories} trajectories, "
            f"{workload.num_distinct:,} distinct tokens of {workload.num_total:,}: sharing {workload.sharing:.2f}"
        )
        caption, columns = UPDATE_CAPTION, UPDATE_COLUMNS
    shown = Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False, padding=0, min_width=80)
    shown.add_column("", no_wrap=True)
    for name, _ in columns:
        shown.add_column(name, justify="right", no_wrap=True)
    for variant in workload.variants:
        shown.add_row(variant.name, *(text(variant) for _, text in columns))
    return shown
