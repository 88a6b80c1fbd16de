"""Keys and values written in place: buffers of a fixed capacity, so that no step copies what is already there.

One `SlotCache` serves a batch: `[rows, heads, capacity, dim]` per layer, the first `length` columns in use. Columns
are never masked here: who may see what is the caller's 4D mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class Span(NamedTuple):
    """A piece of one sequence's keys and values in a cache: columns `[start, stop)` of `row`."""

    cache: SlotCache
    row: int
    start: int
    stop: int


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer. `update` writes behind what is there and returns views."""

    def __init__(self, capacity: int, keys: torch.Tensor | None = None, values: torch.Tensor | None = None) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0
        if keys is not None and values is not None:
            self.keys, self.values = keys, values
            self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        def empty(like: torch.Tensor) -> torch.Tensor:
            return like.new_empty(like.shape[0], like.shape[1], self.capacity, like.shape[3])

        self.keys, self.values = empty(key_states), empty(value_states)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity


class SlotCache(Cache):  # type: ignore[misc]
    """All layers of one batch."""

    def __init__(self, layers: list[SlotLayer]) -> None:
        super().__init__(layers=layers)

    @classmethod
    def empty(cls, layers: int, capacity: int) -> SlotCache:
        """Nothing written yet; rows, heads and dim come with the first update."""
        return cls([SlotLayer(capacity) for _ in range(layers)])

    def at(self, length: int) -> SlotCache:
        """Forget all columns from `length` on, as after a step that did not finish."""
        for layer in self.layers:
            layer.length = length
        return self

    def gather(self, rows: Sequence[int], columns: int, capacity: int) -> SlotCache:
        """A new cache that begins with the first `columns` of the given rows."""
        layers = []
        for layer in self.layers:
            index = torch.tensor(rows, device=layer.keys.device)
            both = []
            for old in (layer.keys, layer.values):
                new = old.new_empty(len(rows), old.shape[1], capacity, old.shape[3])
                new[:, :, :columns] = old[index, :, :columns]
                both.append(new)
            layers.append(SlotLayer(capacity, *both))
        return SlotCache(layers).at(columns)


def align(rows: Sequence[Sequence[Span]], capacity: int) -> SlotCache:
    """Rows of any length, right-aligned in one new cache; what is left of a row is zero.

    Zero and not uninitialised, because a masked weight of 0 times NaN is NaN.
    """
    lengths = [sum(span.stop - span.start for span in row) for row in rows]
    width = max(lengths)
    first = rows[0][0].cache
    layers = []
    for depth in range(len(first.layers)):
        both = []
        for name in ("keys", "values"):
            old = getattr(first.layers[depth], name)
            new = old.new_zeros(len(rows), old.shape[1], capacity, old.shape[3])
            for index, row in enumerate(rows):
                column = width - lengths[index]
                for span in row:
                    size = span.stop - span.start
                    source = getattr(span.cache.layers[depth], name)
                    new[index, :, column : column + size] = source[span.row, :, span.start : span.stop]
                    column += size
            both.append(new)
        layers.append(SlotLayer(capacity, *both))
    return SlotCache(layers).at(width)
