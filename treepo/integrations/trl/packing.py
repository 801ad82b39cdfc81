"""Padded rows of prompts and completions as one packed sequence: each distinct token once.

Letters: B rows · P longest prompt · C longest completion · N packed tokens · S packed tokens of completions ·
R completion tokens of all rows.
"""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from trl.trainer.utils import split_tensor_dict

from treepo.learn.trie import START, PrefixTrie, Span
from treepo.model.attention import tree_attention


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Rows merged where they begin alike, in depth-first order; all arrays int64.

    offsets: where the tokens that begin alike start, and the end. token_ids, positions, subtree_ends [N]: as in
    `TrieLayout`. predecessors [S]: of each distinct completion token, the packed token before it. labels [S]: its id.
    rows, columns, targets [R]: the places of the completion tokens in [B, C], and which of the S each of them is.
    """

    offsets: list[int]
    token_ids: np.ndarray
    positions: np.ndarray
    subtree_ends: np.ndarray
    predecessors: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    targets: np.ndarray

    @classmethod
    def of(cls, input_ids: np.ndarray, mask: np.ndarray, completion_len: int) -> "PackedRows":
        """input_ids, mask: [B, P + C], prompts padded on the left and completions on the right; completion_len: C.

        Every row has a token of its prompt.
        """
        tries: dict[int, tuple[PrefixTrie, list[tuple[int, list[Span]]]]] = {}
        for row, own in enumerate(mask):
            ids = input_ids[row][own]
            trie, members = tries.setdefault(int(ids[0]), (PrefixTrie(), []))
            members.append((row, trie.extend(START, ids)[0]))
        offsets, layouts, parents, places, rows, columns = [0], [], [], [], [], []
        for trie, members in tries.values():
            layout = trie.layout()
            for row, spans in members:
                own = np.flatnonzero(mask[row, -completion_len:])
                places.append(layout.indices(spans)[int(mask[row].sum()) - len(own) :] + offsets[-1])
                rows.append(np.full(len(own), row))
                columns.append(own)
            layouts.append(layout)
            parents.append(layout.parents + offsets[-1])
            offsets.append(offsets[-1] + len(layout.token_ids))
        token_ids = np.concatenate([layout.token_ids for layout in layouts])
        distinct, targets = np.unique(np.concatenate(places), return_inverse=True)
        return cls(
            offsets=offsets,
            token_ids=token_ids,
            positions=np.concatenate([layout.positions for layout in layouts]),
            subtree_ends=np.concatenate([x.subtree_ends + at for x, at in zip(layouts, offsets[:-1], strict=True)]),
            predecessors=np.concatenate(parents)[distinct],
            labels=token_ids[distinct],
            rows=np.concatenate(rows),
            columns=np.concatenate(columns),
            targets=targets,
        )

    @property
    def num_tokens(self) -> int:
        """N."""
        return len(self.token_ids)

    def forward(self, model: nn.Module, backbone: nn.Module, device: torch.device, dtype: torch.dtype) -> Any:
        """Run a model that has TRL's fused head; its outputs hold one value per distinct completion token, [1, S].

        model: possibly wrapped (DDP, peft), with `register_tree_or`'s attention. backbone: the part of it whose hidden
        states the head gets. dtype: of the weights. Where there is no completion token, S is 1, and the value 0.
        """
        predecessors, labels = self.predecessors, self.labels
        if not len(labels):
            predecessors, labels = np.zeros(1, np.int64), np.array([IGNORED])
        tensors = (torch.from_numpy(x).to(device) for x in (self.token_ids, self.positions, predecessors, labels))
        token_ids, positions, before, wanted = tensors
        with selected_states(backbone, before):
            return model(
                input_ids=token_ids[None],
                position_ids=positions[None],
                # With four dimensions it is taken for a finished mask, and none is made.
                attention_mask=torch.zeros(1, 1, 1, 1, dtype=dtype, device=device),
                attention_context=tree_attention(self.offsets, self.subtree_ends, self.positions, device, dtype),
                shift_labels=wanted[None],
                fused_lm_head=True,
            )

    def unpacked(self, values: Tensor, shape: tuple[int, int]) -> Tensor:
        """[1, S] -> [B, C], zeros where there is no token."""
        places = (self.rows, self.columns, self.targets)
        rows, columns, targets = (torch.from_numpy(x).to(values.device) for x in places)
        return values.new_zeros(shape).index_put((rows, columns), values[0, targets])


IGNORED = -100
"""The label of a position that is not scored."""


@contextmanager
def selected_states(backbone: nn.Module, places: Tensor) -> Iterator[None]:
    """Let a backbone return the hidden states of these places alone, some of them several times."""

    def select(_: nn.Module, __: Any, outputs: Any) -> Any:
        outputs.last_hidden_state = outputs.last_hidden_state[:, places]
        return outputs

    handle = backbone.register_forward_hook(select)
    try:
        yield
    finally:
        handle.remove()


ROW = "row"
"""Key of a batch: where a row was before TRL shuffled the rows."""


def regrouped(batches: Sequence[dict[str, Any]], group_size: int) -> list[dict[str, Any]]:
    """TRL's batches with the rows of a group side by side; the groups stay in the order in which TRL shuffled their
    first rows.

    batches: with ROW, int64 [rows of the batch], which is taken out.
    """
    merged = {key: torch.cat([b[key] for b in batches]) if _has_rows(x) else x for key, x in batches[0].items()}
    order = merged.pop(ROW)
    first: dict[int, int] = {}
    for place, row in enumerate(order.tolist()):
        first.setdefault(row // group_size, place)
    rows = order.tolist()
    places = sorted(range(len(rows)), key=lambda place: (first[rows[place] // group_size], rows[place]))
    chosen = torch.tensor(places, device=order.device)
    sorted_rows = {key: x[chosen] if _has_rows(x) else x for key, x in merged.items()}
    return split_tensor_dict(sorted_rows, len(batches))


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0
