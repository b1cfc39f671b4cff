"""What an intervention acts on: neurons, activation sites and token positions.

Names are TransformerLens' own. A *site* is the part of a hook name after `blocks.{layer}.`, in the
short form that TransformerLens' documentation uses (`resid_pre`, `attn_out`, `z`) or in full
(`mlp.hook_post`).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, SupportsIndex

from kntools.arguments import several, shown, whole, whole_numbers

#: A TransformerLens forward hook: the hook point's name and `fn(activation, hook=...)`.
Hook = tuple[str, Callable[..., Any]]


class Answer(Enum):
    ANSWER = "answer"

    def __repr__(self) -> str:
        return "ANSWER"


#: The position(s) whose logits predict the answer: the mask of a masked model, the last token of a prompt.
ANSWER = Answer.ANSWER

#: Where along the sequence: an index (negative ones count from the end), several, a range, `None` for all, or `ANSWER`.
Positions = SupportsIndex | Sequence[SupportsIndex] | slice | Answer | None

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
#: `L24.N1005`.
NEURON_NAME = re.compile(r"^L(\d+)\.N(\d+)$")


@dataclass(frozen=True, order=True)
class Neuron:
    """One MLP neuron: an input of layer `layer`'s `W_out`, counted from zero.

    ```python
    >>> Neuron(9, 1094), Neuron.parse("L9.N1094")
    (L9.N1094, L9.N1094)
    ```
    """

    layer: int
    index: int

    def __post_init__(self) -> None:
        # Whole numbers of numpy and torch are taken, and kept as plain ones.
        for name in ("layer", "index"):
            object.__setattr__(self, name, whole(name, getattr(self, name), least=0))

    @classmethod
    def parse(cls, text: str) -> "Neuron":
        """Read what `repr` writes: `"L24.N1005"`."""
        match = NEURON_NAME.match(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"{shown(text)} names no neuron; write it as 'L24.N1005' (layer 24, neuron 1005)")
        return cls(int(match[1]), int(match[2]))

    def __repr__(self) -> str:
        return f"L{self.layer}.N{self.index}"


#: A neuron, `"L24.N1005"`, or `(24, 1005)`.
NeuronLike = Neuron | str | tuple[SupportsIndex, SupportsIndex]
#: One of these, or several.
NeuronsLike = NeuronLike | Iterable[NeuronLike]


def as_neuron(neuron: NeuronLike) -> Neuron:
    if isinstance(neuron, Neuron):
        return neuron
    if isinstance(neuron, str):
        return Neuron.parse(neuron)
    try:
        layer, number = neuron
    except (TypeError, ValueError):
        raise TypeError(
            f"{shown(neuron)} is not a neuron; give (layer, index) such as (24, 1005), or 'L24.N1005'"
        ) from None
    return Neuron(whole("layer", layer), whole("index", number))


def is_one(given: Any) -> bool:
    """One neuron or head, where several may be given: a name, or a pair of numbers."""
    pair = isinstance(given, tuple) and len(given) == 2 and all(isinstance(n, SupportsIndex) for n in given)
    return pair or isinstance(given, Neuron | str)


def as_neurons(neurons: NeuronsLike) -> tuple[Neuron, ...]:
    """Accept `Neuron`s, their names and `(layer, index)` pairs, one or many; drop repetitions, keep the order."""
    listed = [neurons] if is_one(neurons) else several("neurons", neurons, "att.top(5)")
    return tuple(dict.fromkeys(as_neuron(n) for n in listed))  # type: ignore[arg-type] # a pair is refused by as_neuron


def by_layer(neurons: Iterable[Neuron]) -> dict[int, list[Neuron]]:
    layers: dict[int, list[Neuron]] = {}
    for n in neurons:
        layers.setdefault(n.layer, []).append(n)
    return layers


def hook_name(site: str, layer: SupportsIndex) -> str:
    """The hook point's name of `site` in `layer`, e.g. `("z", 3)` -> `blocks.3.attn.hook_z`."""
    if not isinstance(site, str):
        raise TypeError(f"site={shown(site)} is not a site; the order is site, layer, e.g. 'resid_post', 3")
    tail = SITES.get(site, site)
    if layer_of(tail) is not None:
        raise ValueError(f"site={site!r} names its block; leave that out and give the layer: {_LAYER.sub('', tail)!r}")
    if "hook_" not in tail:
        raise ValueError(f"unknown site {site!r}; use one of {', '.join(SITES)}, or a full name like 'mlp.hook_post'")
    return f"blocks.{whole('layer', layer)}.{tail}"


def layer_of(name: str) -> int | None:
    """The layer of a hook name, or `None` for one outside the blocks (embedding, final norm, unembedding)."""
    match = _LAYER.match(name)
    return int(match.group(1)) if match else None


def layer_window(layer: int, size: int, layers: int) -> range:
    """The `size` layers around one, `[layer - size // 2, layer - size // 2 + size)`, clipped to `layers`."""
    first = layer - size // 2
    return range(max(0, first), min(layers, first + size))


def resolve_positions(pos: Positions, length: int) -> tuple[int, ...]:
    """`pos` as absolute indices into a sequence of `length` tokens; out-of-range positions are errors."""
    if pos is None:
        return tuple(range(length))
    if isinstance(pos, Answer):
        raise ValueError("the answer position is unknown here; give pos=, e.g. pos=-1 for the last token")
    wanted = tuple(range(*pos.indices(length))) if isinstance(pos, slice) else whole_numbers("pos", pos)
    if not wanted:
        raise ValueError(f"no position of {length} tokens is in {pos!r}; give at least one, or None for all")
    for p in wanted:
        if not -length <= p < length:
            raise IndexError(f"position {p} is out of range for {length} tokens (use {-length} to {length - 1})")
    return tuple(p % length for p in wanted)
