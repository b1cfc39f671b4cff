"""Keys and values of prompts, computed once and shared by every row of a batch that grows.

A prefix is read-only. A row takes the keys of the prompt it was forked from; which one that is, and how many rows there
are, changes from layer to layer, and is kept in `Rows`. In a causal model, the keys and values before a position do not
depend on what follows: `before` cuts them out.
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


class PrefixLayer(DynamicLayer):
    """One layer, which answers with prefix + new keys and keeps neither; `axis` is that of positions.

    `past_keys` shows batch 1, which is what a HookedTransformer checks.
    """

    def __init__(self, keys: Tensor, values: Tensor, axis: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values, self.axis, self.rows = keys, values, axis, Rows()
        self.past_keys = keys[:1]

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.rows.extend(self.keys, keys, self.axis), self.rows.extend(self.values, values, self.axis)

    append = update  # its name in a HookedTransformer

    def before(self, start: int) -> "PrefixLayer":
        keys, values = (x.narrow(self.axis, 0, start) for x in (self.keys, self.values))
        return PrefixLayer(keys, values, self.axis)


class Prefix(Cache):
    """The kept beginning of some prompts: a `transformers` cache, with what a HookedTransformer asks of its own.

    Every layer keeps all positions, also where the model attends to a sliding window: the window is in the mask.
    """

    layers: list[PrefixLayer]

    @classmethod
    def of(cls, parts: Sequence[Sequence[tuple[Tensor, Tensor]]], of_prompt: Tensor, axis: int) -> "Prefix":
        """`parts` are the keys and values of every layer, some rows at a time; `of_prompt` is each prompt's row."""
        layers = [[torch.cat(own)[of_prompt] for own in zip(*layer, strict=True)] for layer in zip(*parts, strict=True)]
        return cls(layers=[PrefixLayer(keys, values, axis) for keys, values in layers])

    def before(self, start: int) -> "Prefix":
        """The part before a position."""
        return Prefix(layers=[layer.before(start) for layer in self.layers])

    def use(self, rows: Rows) -> None:
        for layer in self.layers:
            layer.rows = rows

    def append_attention_mask(self, mask: Tensor) -> Tensor:
        return torch.cat([mask.new_ones(mask.shape[0], self.layers[0].past_keys.shape[1]), mask], dim=-1)

    def __getitem__(self, layer: int) -> PrefixLayer:
        return self.layers[layer]


def hooked_cache(model: Any, device: torch.device, rows: int) -> Any:
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    return TransformerLensKeyValueCache.init_cache(model.cfg, device, rows)
