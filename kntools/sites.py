"""What an intervention acts on: neurons, activation sites and token positions.

Names are TransformerLens' own. A *site* is the part of a hook name after `blocks.{layer}.`, in the
short form that TransformerLens' documentation uses (`resid_pre`, `attn_out`, `z`) or in full
(`mlp.hook_post`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, SupportsIndex

#: A TransformerLens forward hook: the hook point's name and `fn(activation, hook=...)`.
Hook = tuple[str, Callable[..., Any]]

#: Where along the sequence: an index (negative ones count from the end), several, a range, or `None` for all.
Positions = SupportsIndex | Sequence[SupportsIndex] | slice | None

# Short site name -> the rest of the hook name. Everything TransformerLens' own patching offers, and the neurons.
SITES = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "z": "attn.hook_z",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "pattern": "attn.hook_pattern",
    "attn_scores": "attn.hook_attn_scores",
    "mlp.hook_post": "mlp.hook_post",
    "mlp.hook_pre": "mlp.hook_pre",
}

_LAYER = re.compile(r"^blocks\.(\d+)\.")


@dataclass(frozen=True, order=True)
class Neuron:
    """One MLP neuron: an input of layer `layer`'s `W_out`, counted from zero.

    ```python
    >>> Neuron(9, 1094)
    L9.N1094
    ```
    """

    layer: int
    index: int

    def __post_init__(self) -> None:
        if self.layer < 0 or self.index < 0:
            raise ValueError(f"neuron (layer {self.layer}, index {self.index}) does not exist: both are counted from 0")

    def __repr__(self) -> str:
        return f"L{self.layer}.N{self.index}"


def as_neurons(neurons: Iterable[Neuron | tuple[int, int]]) -> tuple[Neuron, ...]:
    """Accept `Neuron`s and plain `(layer, index)` pairs, drop repetitions, keep the order."""
    found = (n if isinstance(n, Neuron) else Neuron(*n) for n in neurons)
    return tuple(dict.fromkeys(found))


def hook_name(site: str, layer: int) -> str:
    """The hook point's name of `site` in `layer`, e.g. `("z", 3)` -> `blocks.3.attn.hook_z`."""
    tail = SITES.get(site, site)
    if "hook_" not in tail:
        raise ValueError(f"unknown site {site!r}; use one of {', '.join(SITES)}, or a full name like 'mlp.hook_post'")
    return f"blocks.{layer}.{tail}"


def layer_of(name: str) -> int | None:
    """The layer of a hook name, or `None` for one outside the blocks (embedding, final norm, unembedding)."""
    match = _LAYER.match(name)
    return int(match.group(1)) if match else None


def resolve_positions(pos: Positions, length: int) -> tuple[int, ...]:
    """`pos` as absolute indices into a sequence of `length` tokens; out-of-range positions are errors."""
    if pos is None:
        return tuple(range(length))
    if isinstance(pos, slice):
        wanted = tuple(range(*pos.indices(length)))
    else:
        wanted = (index(pos),) if isinstance(pos, SupportsIndex) else tuple(map(index, pos))
    if not wanted:
        raise ValueError(f"no position of {length} tokens is in {pos!r}; give at least one, or None for all")
    for p in wanted:
        if not -length <= p < length:
            raise IndexError(f"position {p} is out of range for {length} tokens (use {-length} to {length - 1})")
    return tuple(p % length for p in wanted)
