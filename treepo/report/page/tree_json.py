"""One kept tree as the page reads it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from treepo.report.page.numbers import shorts, thousandths
from treepo.report.trees import KeptTree
from treepo.tree import ROOT


@dataclass
class Pieces:
    """The texts of tokens, each once, in the order in which they came."""

    texts: list[str] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def index(self, text: str) -> int:
        place = self.places.setdefault(text, len(self.texts))
        if place == len(self.texts):
            self.texts.append(text)
        return place


def tree_json(kept: KeptTree, texts: Sequence[Sequence[str]], pieces: Pieces) -> dict[str, Any]:
    """The tree with the texts of its tokens, per node as `TokenTexts.of` has them; new ones are added to `pieces`.

    Lists are per node, per leaf (`rewards`, `advantages`), or per token below the prompt, node after node (`ids`,
    `logprobs`, `entropies`). What is not known is None.
    """
    tree, advantages = kept.tree, kept.advantages
    below = tree.nodes[ROOT + 1 :]
    is_per_node = advantages is not None and tree.is_per_node(advantages)
    values = None if advantages is None else shorts(tree.per_node(advantages) if is_per_node else advantages)
    return {
        "problem": tree.problem_id,
        "prompt": "".join(texts[ROOT]),
        "parents": [node.parent for node in tree.nodes],
        "lengths": [len(node.token_ids) for node in tree.nodes],
        "stops": [None if node.stop is None else str(node.stop) for node in tree.nodes],
        "resumed": [int(node.resumed) for node in tree.nodes],
        "ids": [pieces.index(text) for own in texts[ROOT + 1 :] for text in own],
        "logprobs": thousandths(np.concatenate([np.zeros(0), *(_scores(node.sampled_logprobs) for node in below)])),
        "entropies": None if kept.entropies is None else thousandths(np.concatenate(kept.entropies[ROOT + 1 :])),
        "leaves": tree.leaves(),
        "rewards": None if kept.rewards is None else shorts(kept.rewards),
        "advantages": None if is_per_node else values,
        "node_advantages": values if is_per_node else None,
        "terms": None,
        "whitening": None,
        "estimator": None,
        "num_dropped": tree.num_dropped,
        "num_fallbacks": tree.num_fallbacks,
    }


def _scores(values: np.ndarray | None) -> np.ndarray:
    assert values is not None, "only the prompt is not scored"
    return values
