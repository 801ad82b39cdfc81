"""Keys and values of the engine's rows, and the attention that reads them.

Letters: R rows · C capacity in tokens · G key-value heads · H query heads · D head size · N tokens of one forward.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class KeyValueCache:
    """Per layer, keys and values of R rows of C tokens: [R, G, C, D]; a token's column is its position."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.num_rows = 0
        self.capacity = 0

    def reserve(self, num_rows: int, capacity: int) -> None:
        """Make room for at least this many rows and columns; what is stored stays."""
        if num_rows <= self.num_rows and capacity <= self.capacity:
            return
        self.num_rows = max(num_rows, self.num_rows)
        self.capacity = max(capacity, self.capacity)
        self.layers = [(self._enlarged(k), self._enlarged(v)) for k, v in self.layers]

    def _enlarged(self, old: Tensor) -> Tensor:
        rows, heads, columns, size = old.shape
        new = old.new_zeros(self.num_rows, heads, self.capacity, size)
        new[:rows, :, :columns] = old
        return new

    def move(self, targets: Tensor, sources: Tensor, num_columns: int) -> None:
        """Row targets[i] becomes what row sources[i] was before the call, up to `num_columns`."""
        for keys, values in self.layers:
            keys[targets, :, :num_columns] = keys[sources, :, :num_columns]
            values[targets, :, :num_columns] = values[sources, :, :num_columns]

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, made on first use in the shape of the model's own."""
        if index == len(self.layers):
            shapes = [(self.num_rows, x.shape[1], self.capacity, x.shape[3]) for x in (key, value)]
            self.layers.append((key.new_zeros(shapes[0]), value.new_zeros(shapes[1])))
        return self.layers[index]


class DecodeAttention:
    """One new token for each of rows 0..N-1, which sees its row up to itself.

    positions: int64 [N], the position of each row's new token.
    """

    def __init__(self, cache: KeyValueCache, positions: Tensor) -> None:
        self.cache = cache
        self.positions = positions
        self.rows = torch.arange(len(positions), device=positions.device)
        self.num_columns = int(positions.max()) + 1
        self.masks: dict[int | None, Tensor] = {}

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        n, heads = len(self.rows), key.shape[1]
        keys, values = self.cache.layer(layer, key, value)
        keys[self.rows, :, self.positions] = key[0].transpose(0, 1)
        values[self.rows, :, self.positions] = value[0].transpose(0, 1)
        # Query heads that share a key head become the query rows of one attention call: [N, G, H / G, D].
        grouped = query[0].transpose(0, 1).reshape(n, heads, -1, query.shape[-1])
        output = scaled_dot_product_attention(
            grouped,
            keys[:n, :, : self.num_columns],
            values[:n, :, : self.num_columns],
            attn_mask=self._mask(window, query.dtype),
            scale=scale,
        )
        return output.reshape(n, -1, output.shape[-1])

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[N, 1, 1, columns]: 0 for visible keys, -inf for others."""
        if window not in self.masks:
            columns = torch.arange(self.num_columns, device=self.positions.device)
            ahead = self.positions[:, None] - columns
            hidden = (ahead < 0) if window is None else (ahead < 0) | (ahead >= window)
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            self.masks[window] = mask.masked_fill_(hidden, float("-inf"))[:, None, None]
        return self.masks[window]


class PrefillAttention:
    """Several new tokens for each of some rows; each sees its row up to itself.

    spans: (row, first position, end position) of each run of tokens, in their order in the forward.
    """

    def __init__(self, cache: KeyValueCache, spans: list[tuple[int, int, int]]) -> None:
        self.cache = cache
        self.spans = spans

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        group_size = query.shape[1] // key.shape[1]
        keys, values = self.cache.layer(layer, key, value)
        outputs, offset = [], 0
        for row, start, end in self.spans:
            tokens = slice(offset, offset + end - start)
            offset += end - start
            keys[row, :, start:end] = key[0, :, tokens]
            values[row, :, start:end] = value[0, :, tokens]
            seen_keys = keys[row : row + 1, :, :end].repeat_interleave(group_size, dim=1)
            seen_values = values[row : row + 1, :, :end].repeat_interleave(group_size, dim=1)
            ahead = torch.arange(start, end, device=query.device)[:, None] - torch.arange(end, device=query.device)
            visible = (ahead >= 0) if window is None else (ahead >= 0) & (ahead < window)
            outputs.append(
                scaled_dot_product_attention(
                    query[:, :, tokens], seen_keys, seen_values, attn_mask=visible, scale=scale
                )
            )
        return torch.cat(outputs, dim=2)[0].transpose(0, 1)
