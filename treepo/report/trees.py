"""Trees on disk: Parquet, one row per node, readable with pandas, polars or datasets."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from treepo.credit.base import Advantages
from treepo.tree import ROOT, Node, StopReason, Tree
from treepo.utils.files import open_plain
from treepo.utils.io import PARTIAL, replacing
from treepo.utils.text import replace_surrogates

SCHEMA = pa.schema(
    [
        ("tree", pa.int32()),
        ("problem", pa.string()),
        ("node", pa.int32()),
        ("parent", pa.int32()),
        ("depth", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("text", pa.string()),
        ("sampled_logprobs", pa.list_(pa.float32())),
        ("entropies", pa.list_(pa.float32())),
        ("seed", pa.int64()),
        ("stop", pa.string()),
        ("resumed", pa.bool_()),
        ("reward", pa.float64()),
        ("advantage", pa.float64()),
        ("num_dropped", pa.int64()),
        ("num_fallbacks", pa.int64()),
        ("weights_version", pa.int64()),
        ("question", pa.string()),
        ("ground_truth", pa.string()),
        ("extracted_answer", pa.string()),
        ("outcome", pa.string()),
        ("correct", pa.float64()),
    ]
)
"""Columns; `tree` counts the trees of the file, `depth` the nodes above one, `resumed` is whether a fallback drew it,
`entropies` are of the distributions its tokens were drawn from, `weights_version` is the step whose weights sampled the
tree. Null: not scored, no leaf, no signal, not asked for.
Advantages stand at the leaves, or at all nodes where each has its own; question and ground truth at the prompt and the
leaves. Each part of the reward follows in a column of its own, `reward/NAME`, as its metric is called; so does what
reward functions logged per answer, `extra/NAME`, as JSON."""

OF_TURNS = {"observed": pa.bool_(), "turn_reward": pa.float64(), "role": pa.string()}
"""Columns of files with trees of several turns alone: whether a node was observed, what the environment gave, and whose
messages were observed."""

LATER = {"entropies", "weights_version", "question", "ground_truth", "extracted_answer", "outcome", "correct"}
"""Columns that files of earlier versions have not."""

PART = "reward/"
"""Begins the names of columns with parts of the reward."""


EXTRA = "extra/"
"""Begins the names of columns that reward functions logged."""


@dataclass(frozen=True, eq=False)
class Grading:
    """How the answers of a tree were graded; lists and arrays are per leaf, in the order of `Tree.leaves`.

    question: what was asked, as text. extracted_answers: what the verifier took for the answer, None where it found
    none. outcomes: how each verdict came about (`Outcome`). correct: float64 [L], the verifier's score, 0 to 1. parts:
    by name the weighted parts of the reward, float64 [L], which add up to it. extra: by name, values that reward
    functions logged, each one that JSON has a word for.
    """

    question: str
    ground_truth: str
    extracted_answers: Sequence[str | None]
    outcomes: Sequence[str]
    correct: np.ndarray
    parts: Mapping[str, np.ndarray]
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class KeptTree:
    """A tree; if it was scored, the reward of each leaf, in the order of `Tree.leaves`, and how the answers were
    graded; if it carried a signal, the advantages, of each leaf or of each node; per node, the entropies of the
    distributions its tokens were drawn from, if they were asked for (of the prompt they say nothing)."""

    tree: Tree
    rewards: np.ndarray | None = None
    advantages: Advantages | None = None
    entropies: Sequence[np.ndarray] | None = None
    grading: Grading | None = None

    def leaf_advantages(self) -> np.ndarray | None:
        """One per leaf; where each node has its own, those of the leaves. None without a signal."""
        if self.advantages is None:
            return None
        if self.advantages.per_node:
            return self.advantages.node_means(self.tree)[self.tree.leaves()]
        return self.advantages.values


def write_trees(path: Path, trees: Sequence[KeptTree], decode: Callable[[Sequence[int]], str]) -> None:
    """Write one file, as a whole or not at all; its folder is made if need be. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, path.with_name(path.name + PARTIAL)) as partial:
        pq.write_table(_table_of(trees, decode), partial, compression="zstd")


def trees_as_bytes(trees: Sequence[KeptTree], decode: Callable[[Sequence[int]], str]) -> bytes:
    """What `write_trees` writes."""
    buffer = BytesIO()
    pq.write_table(_table_of(trees, decode), buffer, compression="zstd")
    return buffer.getvalue()


def _table_of(trees: Sequence[KeptTree], decode: Callable[[Sequence[int]], str]) -> pa.Table:
    rows = [row for i, kept in enumerate(trees) for row in _rows(i, kept, decode)]
    parts = dict.fromkeys(name for row in rows for name in row if name.startswith(PART))
    extra = dict.fromkeys(name for row in rows for name in row if name.startswith(EXTRA))
    turns = OF_TURNS.items() if any(kept.tree.has_turns for kept in trees) else ()
    others = ((name, pa.float64()) for name in parts), ((name, pa.string()) for name in extra)
    return pa.Table.from_pylist(rows, schema=pa.schema([*SCHEMA, *turns, *chain.from_iterable(others)]))


def read_trees(path: Path, chosen: Sequence[int] | None = None) -> list[KeptTree]:
    """The trees of a file, or those at the chosen places in it, equal to those written.

    Raises ValueError naming the file and the tree if one is damaged.
    """
    trees = []
    for rows in _rows_by_tree(path, chosen):
        try:
            trees.append(_kept_tree(rows))
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{str(path)!r} is damaged: tree {rows[ROOT]['tree']}: {error}") from error
    return trees


def read_texts(path: Path, chosen: Sequence[int] | None = None) -> list[list[str]]:
    """The text of each node of the same trees."""
    return [[row["text"] for row in rows] for rows in _rows_by_tree(path, chosen)]


def count_trees(path: Path) -> int:
    """How many trees a file holds."""
    with open_plain(path) as file:
        return len(pq.read_table(file, columns=["tree"])["tree"].unique())


def _rows_by_tree(path: Path, chosen: Sequence[int] | None) -> list[list[dict[str, Any]]]:
    filters = None if chosen is None else [("tree", "in", list(chosen))]
    rows_of: dict[int, list[dict[str, Any]]] = {}
    with open_plain(path) as file:
        table = pq.read_table(file, filters=filters)
    missing = set(SCHEMA.names) - set(table.column_names) - LATER
    if missing:
        raise ValueError(f"{str(path)!r} is damaged: there is no column {', '.join(sorted(missing))}")
    for row in table.to_pylist():
        rows_of.setdefault(row["tree"], []).append(row)
    return list(rows_of.values())


def _rows(index: int, kept: KeptTree, decode: Callable[[Sequence[int]], str]) -> list[dict[str, Any]]:
    tree, place = kept.tree, {leaf: i for i, leaf in enumerate(kept.tree.leaves())}
    advantages, is_per_node = None, kept.advantages is not None and kept.advantages.per_node
    if kept.advantages is not None:
        advantages = kept.advantages.node_means(tree) if is_per_node else kept.advantages.values
    rows = []
    for i, node in enumerate(tree.nodes):
        leaf = place.get(i)
        rows.append(
            {
                "tree": index,
                "problem": tree.problem_id,
                "node": i,
                "parent": node.parent,
                "depth": len(tree.path(i)) - 1,
                "token_ids": node.token_ids,
                "text": decode(node.token_ids.tolist()),
                "sampled_logprobs": node.sampled_logprobs,
                "entropies": None if kept.entropies is None or i == ROOT else kept.entropies[i],
                "seed": node.seed,
                "stop": node.stop,
                "resumed": node.from_fallback,
                "observed": node.observed,
                "turn_reward": node.reward,
                "role": None if node.role is None else replace_surrogates(node.role),
                "reward": _at(leaf, kept.rewards),
                "advantage": _at(i if is_per_node else leaf, advantages),
                "num_dropped": tree.num_dropped,
                "num_fallbacks": tree.num_fallbacks,
                "weights_version": tree.weights_version,
                **_grade_cells(kept.grading, leaf, i == ROOT),
            }
        )
    return rows


def _grade_cells(grading: Grading | None, leaf: int | None, is_root: bool) -> dict[str, Any]:
    """The cells of one node; leaf: its place among the leaves."""
    if grading is None or (leaf is None and not is_root):
        return {}
    # What a model writes may hold half a surrogate pair, which is no UTF-8.
    cells: dict[str, Any] = {
        "question": replace_surrogates(grading.question),
        "ground_truth": replace_surrogates(grading.ground_truth),
    }
    if leaf is None:
        return cells
    extracted = grading.extracted_answers[leaf]
    cells["extracted_answer"] = None if extracted is None else replace_surrogates(extracted)
    cells["outcome"] = str(grading.outcomes[leaf])
    cells["correct"] = float(grading.correct[leaf])
    cells |= {PART + replace_surrogates(name): float(values[leaf]) for name, values in grading.parts.items()}
    return cells | {
        EXTRA + replace_surrogates(name): json.dumps(values[leaf]) for name, values in grading.extra.items()
    }


def _at(index: int | None, values: np.ndarray | None) -> float | None:
    return None if index is None or values is None else float(values[index])


def _kept_tree(rows: list[dict[str, Any]]) -> KeptTree:
    nodes = [_node(row) for row in rows]
    _check(nodes)
    leaves = [row for row in rows if row["stop"] is not None]
    per_node = rows[ROOT]["advantage"] is not None
    advantages = _values(rows if per_node else leaves, "advantage")
    return KeptTree(
        Tree(
            rows[ROOT]["problem"],
            nodes,
            rows[ROOT]["num_dropped"],
            rows[ROOT]["num_fallbacks"],
            rows[ROOT].get("weights_version"),
        ),
        _values(leaves, "reward"),
        None if advantages is None else Advantages(advantages, per_node),
        _entropies(rows),
        _grading(rows[ROOT], leaves),
    )


def _grading(root: dict[str, Any], leaves: list[dict[str, Any]]) -> Grading | None:
    if root.get("question") is None:
        return None
    # The columns of a file are those of all its trees: those of others are null here.
    known = [name for name, value in (leaves[0] if leaves else {}).items() if value is not None]
    parts = {name.removeprefix(PART): _numbers(leaves, name) for name in known if name.startswith(PART)}
    logged = [name for name in known if name.startswith(EXTRA)]
    return Grading(
        question=_text(root["question"]),
        ground_truth=_text(root.get("ground_truth")),
        extracted_answers=[
            None if row.get("extracted_answer") is None else _text(row["extracted_answer"]) for row in leaves
        ],
        outcomes=[_text(row.get("outcome")) for row in leaves],
        correct=_numbers(leaves, "correct"),
        parts=parts,
        extra={name.removeprefix(EXTRA): [_scalar(row[name]) for row in leaves] for name in logged},
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.50} is no text")
    return value


def _scalar(written: object) -> Any:
    value = json.loads(_text(written))
    if isinstance(value, dict | list):
        raise ValueError(f"{value!r:.50} is neither a number nor a text")
    return value


def _numbers(leaves: list[dict[str, Any]], column: str) -> np.ndarray:
    values = _values(leaves, column)
    if values is None or values.dtype != np.float64:
        raise ValueError(f"a leaf has no number in {column[:50]!r}")
    return values


def _check(nodes: Sequence[Node]) -> None:
    """Raises ValueError unless all nodes hang together below the prompt, leaves alone at their ends, each token below
    it with its log-probability. The upper part of a node that was split comes after its children."""
    for i, node in enumerate(nodes):
        if (node.parent != -1) if i == ROOT else not 0 <= node.parent < len(nodes):
            raise ValueError(f"node {i} has no parent {node.parent}")
        if (node.token_ids < 0).any():
            raise ValueError(f"node {i} has a negative token id")
        if node.observed:
            if i == ROOT or node.sampled_logprobs is not None or node.stop is not None:
                raise ValueError(f"node {i} was observed, and is the prompt, a leaf, or has log-probabilities")
        elif i != ROOT and (node.sampled_logprobs is None or len(node.sampled_logprobs) != len(node.token_ids)):
            raise ValueError(f"node {i} has not one log-probability for each token")
    tree = Tree("", list(nodes))
    if len(list(tree.top_down())) < len(nodes):
        raise ValueError("some nodes are not below the prompt")
    for i, children in enumerate(tree.children()):
        if nodes[i].stop is not None and (children or i == ROOT):
            raise ValueError(f"node {i} is a leaf and is not")


def _entropies(rows: list[dict[str, Any]]) -> list[np.ndarray] | None:
    values: list[Any] = [row.get("entropies") for row in rows[ROOT + 1 :]]
    if not values or None in values:
        return None
    if any(len(own) != len(row["token_ids"]) for own, row in zip(values, rows[ROOT + 1 :], strict=True)):
        raise ValueError("a node has not one entropy for each token")
    return [np.full(len(rows[ROOT]["token_ids"]), np.nan, np.float32), *(np.array(own, np.float32) for own in values)]


def _values(leaves: list[dict[str, Any]], column: str) -> np.ndarray | None:
    values = [row[column] for row in leaves]
    return None if None in values else np.array(values)


def _node(row: dict[str, Any]) -> Node:
    logprobs, role, reward = row["sampled_logprobs"], row.get("role"), row.get("turn_reward")
    if not isinstance(reward, float | None):
        raise ValueError(f"{reward!r:.50} is no reward of a turn")
    return Node(
        parent=row["parent"],
        token_ids=np.array(row["token_ids"], np.int32),
        sampled_logprobs=None if logprobs is None else np.array(logprobs, np.float32),
        seed=row["seed"],
        stop=None if row["stop"] is None else StopReason(row["stop"]),
        from_fallback=row["resumed"],
        observed=bool(row.get("observed")),
        reward=reward,
        role=None if role is None else _text(role),
    )
