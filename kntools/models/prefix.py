"""Keys and values of prompts, computed once and shared by every row of a batch that grows.

Both caches are read-only. A row takes the keys of the prompt it was forked from; which one that is,
and how many rows there are, changes from layer to layer, and is kept in `Rows`. In a causal model, the keys and values
before a position do not depend on what follows: `before` cuts them out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


@dataclass
class Rows:
    """The prompt of each row now in the batch: a tensor of prompt numbers, or `None` if there is one prompt."""

    count: int = 1
    prompt_of: Tensor | None = None

    def extend(self, kept: Tensor, new: Tensor, axis: int) -> Tensor:
        """`kept [prompt ...]` as `[row ...]`, followed by `new` along the axis of positions."""
        of_rows = kept.expand(self.count, *kept.shape[1:]) if self.prompt_of is None else kept[self.prompt_of]
        return torch.cat([of_rows, new], dim=axis)


class _PrefixLayer(DynamicLayer):
    """One layer of a `transformers` cache that answers with prefix + new keys, and keeps neither."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values, self.rows = keys, values, Rows()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.rows.extend(self.keys, key_states, -2), self.rows.extend(self.values, value_states, -2)


class BridgePrefix(Cache):
    """A prefix for `TransformerBridge`, as a `transformers` cache.

    Every layer keeps all positions, also where the model attends to a sliding window: the window is in the mask.
    """

    @classmethod
    def from_caches(cls, caches: Sequence[Any]) -> "BridgePrefix":
        """The prompts of all caches, one after the other."""
        layers = zip(*(cache.layers for cache in caches), strict=True)
        return cls(layers=[_PrefixLayer(*_joined([(a.keys, a.values) for a in parts])) for parts in layers])

    def before(self, start: int) -> "BridgePrefix":
        """The part before a position."""
        return BridgePrefix(layers=[_PrefixLayer(x.keys[:, :, :start], x.values[:, :, :start]) for x in self.layers])

    def use(self, rows: Rows) -> None:
        for layer in self.layers:
            layer.rows = rows


class _HookedEntry:
    """One layer for `HookedTransformer`; `past_keys` shows batch 1, which is what the model checks."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values, self.rows = keys, values, Rows()
        self.past_keys, self.past_values = keys[:1], values[:1]

    def append(self, new_keys: Tensor, new_values: Tensor) -> tuple[Tensor, Tensor]:
        return self.rows.extend(self.keys, new_keys, 1), self.rows.extend(self.values, new_values, 1)


def hooked_cache(model: Any, device: torch.device, rows: int) -> Any:
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    return TransformerLensKeyValueCache.init_cache(model.cfg, device, rows)


@dataclass
class HookedPrefix:
    """A prefix for `HookedTransformer`, in the form of its own key-value cache."""

    entries: list[_HookedEntry]
    length: int

    @classmethod
    def from_caches(cls, caches: Sequence[Any]) -> "HookedPrefix":
        layers = zip(*(cache.entries for cache in caches), strict=True)
        entries = [_HookedEntry(*_joined([(a.past_keys, a.past_values) for a in parts])) for parts in layers]
        return cls(entries, entries[0].keys.shape[1])

    def before(self, start: int) -> "HookedPrefix":
        return HookedPrefix([_HookedEntry(x.keys[:, :start], x.values[:, :start]) for x in self.entries], start)

    def use(self, rows: Rows) -> None:
        for entry in self.entries:
            entry.rows = rows

    def append_attention_mask(self, mask: Tensor) -> Tensor:
        return torch.cat([mask.new_ones(mask.shape[0], self.length), mask], dim=-1)

    def __getitem__(self, layer: int) -> _HookedEntry:
        return self.entries[layer]


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    keys, values = (torch.cat(own) if len(parts) > 1 else own[0] for own in zip(*parts, strict=True))
    return keys, values


#: The kept beginning of some prompts, for either kind of model.
Prefix = BridgePrefix | HookedPrefix
