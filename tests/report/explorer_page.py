"""A page of the tree explorer alone, as fixtures too, and trees as it reads them."""

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from tests.report.browser import open_page
from tests.trees import random_tree
from treepo.credit.subgroup import TreePO
from treepo.tree import Tree

STATIC = files("treepo.report.page").joinpath("static")
OURS = ("compare", "dom", "explorer", "export", "tree_")
LETTERS = list("abcdefgh")


@pytest.fixture(scope="module")
def forest():
    """Random trees with splits and fallbacks, and rewards of their leaves."""
    rng = np.random.default_rng(5)
    trees = [random_tree(rng, num_leaves) for num_leaves in (1, 2, 3, 5, 8, 13, 21)]
    return [(tree, rng.normal(size=len(tree.leaves()))) for tree in trees]


@pytest.fixture(scope="module")
def page(browser, forest, tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    trees = [tree_json(tree, f"prompt {i}", rewards) for i, (tree, rewards) in enumerate(forest)]
    path.write_text(explorer_page(payload_of(trees, LETTERS)), "utf-8")
    errors: list[str] = []
    yield open_page(browser, path, errors)
    assert errors == []


def explorer_page(payload: dict[str, Any]) -> str:
    """HTML that mounts the explorer on a payload; `window.mounted` is what `mount` returned."""
    names = sorted(entry.name for entry in STATIC.iterdir() if entry.name.startswith(OURS))
    scripts = _texts(["vendor/d3.min.js", *(name for name in names if name.endswith(".js"))])
    styles = "".join(_texts(["shell.css", *(name for name in names if name.endswith(".css"))]))
    start = "window.mounted = treepo.explorer.mount(document.getElementById('trees'), window.payload);"
    shown = json.dumps(payload, allow_nan=False).replace("<", "\\u003c")
    scripts = [f"window.payload = {shown};", *scripts, start]
    body = "".join(f"<script>{script}</script>" for script in scripts)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>{styles}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body><section id="trees"></section>{body}</body></html>'


def _texts(paths: Sequence[str]) -> list[str]:
    return [STATIC.joinpath(*path.split("/")).read_text("utf-8") for path in paths]


def payload_of(trees: Sequence[dict[str, Any]], pieces: Sequence[str]) -> dict[str, Any]:
    """One run with the trees at step 7, and the last of them at step 9 too."""
    steps = [{"step": 7, "trees": list(trees)}, {"step": 9, "trees": list(trees[-1:])}]
    return {"version": 1, "runs": [{"name": "run", "trees": {"pieces": list(pieces), "steps": steps}}], "charts": []}


def tree_json(tree: Tree, prompt: str = "prompt?", rewards: np.ndarray | None = None) -> dict[str, Any]:
    """The tree with its token ids as indices of pieces; with rewards also TreePO's advantages and components."""
    below = tree.nodes[1:]
    credit: dict[str, Any] = {"rewards": None, "advantages": None, "components": None}
    if rewards is not None:
        advantages = TreePO()(tree, rewards)
        credit = {
            "rewards": rewards.tolist(),
            "advantages": advantages.tolist(),
            "components": components_of(tree, rewards),
        }
    return {
        "problem": tree.problem_id,
        "prompt": prompt,
        "parents": [node.parent for node in tree.nodes],
        "lengths": [len(node.token_ids) for node in tree.nodes],
        "stops": [node.stop and str(node.stop) for node in tree.nodes],
        "resumed": [int(node.from_fallback) for node in tree.nodes],
        "ids": [int(i) for node in below for i in node.token_ids],
        "logprobs": [float(x) for node in below for x in node.sampled_logprobs],
        "entropies": None,
        "leaves": tree.leaves(),
        "node_advantages": None,
        "whitening": None,
        "estimator": "TreePO",
        "num_dropped": tree.num_dropped,
        "num_fallbacks": tree.num_fallbacks,
        **credit,
    }


def components_of(tree: Tree, rewards: np.ndarray) -> list[list[dict[str, Any]]]:
    """TreePO's components of each leaf: the groups of its proper ancestors that have two leaves or more."""
    groups, components = tree.groups(), []
    for reward, leaf in zip(rewards, tree.leaves(), strict=True):
        own = [node for node in tree.path(leaf)[:-1] if len(groups[node]) > 1]
        means = [float(rewards[groups[node]].mean()) for node in own]
        components.append(
            [
                {
                    "name": f"group of node {node}",
                    "node": node,
                    "size": len(groups[node]),
                    "mean": mean,
                    "value": float(reward - mean),
                    "weight": 1 / len(own),
                }
                for node, mean in zip(own, means, strict=True)
            ]
        )
    return components
