"""The cells of a patching grid: a site in some layers, and along it positions, heads or neurons."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.arguments import whole, whole_numbers
from kntools.engine.prompt_pairs import Pair
from kntools.engine.sweep import sweep
from kntools.hooks.heads import check_whole_heads
from kntools.hooks.positioned import PositionedHook, position_axis
from kntools.hooks.states import capture, patch
from kntools.models import adapter
from kntools.models.attachment import without_hooks
from kntools.models.causality import is_causal_with_hooks
from kntools.models.modules import once
from kntools.models.neuron_layers import check_hook, layers_of
from kntools.prompts import Encoded
from kntools.sites import Hook, Positions, hook_name, layer_window, resolve_positions

Axis = Literal["position", "head", "neuron"]

# What is disturbed moves by so many times its own size; a read-out moves the logits by at most so many roundings.
_STRENGTH, _ROUNDINGS = 4.0, 8.0


@dataclass(frozen=True)
class CellChoice:
    site: str = "resid_pre"
    layers: Sequence[int] | None = None
    positions: Positions = None
    heads: bool | Sequence[int] = False
    neurons: bool | Sequence[int] = False
    window: int = 1


@dataclass(frozen=True)
class Cells:
    """Every layer (with those around it) with every column is one cell."""

    site: str
    layers: tuple[int, ...]
    windows: tuple[tuple[int, ...], ...]  # of each layer: which are patched together
    axis: Axis
    columns: tuple[int, ...]
    positions: Positions  # patched together, where columns are heads or neurons
    causal: bool

    def hooks(self, pair: Pair, source: dict[str, Tensor], window: Sequence[int], column: int) -> list[Hook]:
        """The patch of one cell; none where both runs are the same, whatever the model computes."""
        wanted = resolve_positions(column if self.axis == "position" else self.positions, pair.length)
        where = tuple(p for p in wanted if p in self.changed(pair))
        if not where:
            return []
        entry = {} if self.axis == "position" else {f"{self.axis}s": [column]}
        return [h for n in window for h in patch(self.site, n, source, where, **entry)]

    def changed(self, pair: Pair) -> range:
        return range(pair.first_difference if self.causal else 0, pair.length)

    def places(self, pairs: int) -> Iterator[tuple[int, int, int]]:
        """Every cell of each pair, `(pair, layer, column)`: indices of the grid."""
        return product(range(pairs), range(len(self.layers)), range(len(self.columns)))

    def filled(
        self, own: Float[Tensor, " pair"], places: Sequence[tuple[int, int, int]], values: Float[Tensor, " place"]
    ) -> Float[Tensor, "pair layer column"]:
        """A grid of the values of runs that are not patched, with others at some places."""
        grid = own[:, None, None].repeat(1, len(self.layers), len(self.columns))
        if places:
            grid[tuple(torch.tensor(places).T)] = values
        return grid

    def sum_per_column(self, x: Float[Tensor, "pos ..."], pair: Pair) -> Float[Tensor, " column"]:
        """The sum of `x`, `[pos d]` or `[pos head d]`, over what each column patches."""
        if self.axis == "position":
            return x.flatten(1).sum(1)[list(self.columns)]
        patched = x[list(set(resolve_positions(self.positions, pair.length)))].sum(0)
        return (patched.sum(-1) if self.axis == "head" else patched)[list(self.columns)]


def make_cells(model: Any, pairs: Sequence[Pair], choice: CellChoice) -> Cells:
    if choice.heads is not False and choice.neurons is not False:
        raise ValueError("heads and neurons are two kinds of columns; choose one")
    count, having = adapter.n_layers(model), layers_of(model, choice.site)
    layers = tuple(having) if choice.layers is None else whole_numbers("layers", choice.layers)
    if not layers:
        raise ValueError("layers is empty; leave it out for all layers")
    size = whole("window", choice.window, 1, count)
    for layer in layers:
        adapter.check_layer(model, layer)
        adapter.hook_point(model, hook_name(choice.site, layer))
        check_hook(model, hook_name(choice.site, layer))
    check_live(model, pairs[0].corrupted, choice.site, layers[0])
    windows = tuple(tuple(n for n in layer_window(layer, size, count) if n in having) for layer in layers)
    axis, columns = _columns(model, pairs, choice, sorted({n for window in windows for n in window}))
    return Cells(choice.site, layers, windows, axis, columns, choice.positions, causal=is_causal_with_hooks(model))


def _columns(
    model: Any, pairs: Sequence[Pair], choice: CellChoice, layers: Sequence[int]
) -> tuple[Axis, tuple[int, ...]]:
    if choice.heads is False and choice.neurons is False:
        lengths = {p.length for p in pairs}
        if len(lengths) > 1:
            raise ValueError(
                f"the pairs have {sorted(lengths)} tokens: their positions do not line up; "
                "patch pairs of one length together, or heads=True"
            )
        return "position", resolve_positions(choice.positions, lengths.pop())
    for pair in pairs:
        resolve_positions(choice.positions, pair.length)  # out of range is an error before any work
    seen: dict[str, Tensor] = {}
    sweep(model, pairs[0].clean, [capture([choice.site], layers, seen)])
    name, found = next(iter(seen.items()))
    if choice.heads is not False:
        if found.ndim != 4:
            raise ValueError(f"site {choice.site!r} has no heads; those of z, q, k, v and pattern do")
        count = found.shape[3 - position_axis(adapter.hook_point(model, name), model)]
        check_whole_heads(model, name, count)
        return "head", _chosen(choice.heads, count, "head")
    if found.ndim != 3:
        raise ValueError(f"site {choice.site!r} is split into heads; neurons are entries of e.g. mlp.hook_post")
    if len({x.shape[-1] for x in seen.values()}) > 1:
        widths = {layer: x.shape[-1] for layer, x in zip(layers, seen.values(), strict=True)}
        raise ValueError(f"the layers have different numbers of neurons, {widths}; give layers=[...] of one width")
    return "neuron", _chosen(choice.neurons, found.shape[-1], "neuron")


def _chosen(asked: bool | Sequence[int], count: int, what: str) -> tuple[int, ...]:
    wanted = tuple(range(count)) if isinstance(asked, bool) else whole_numbers(f"{what}s", asked)
    for i in wanted:
        if not 0 <= i < count:
            raise IndexError(f"{what} {i} does not exist: there are {count}")
    if not wanted:
        raise ValueError(f"{what}s is empty; True stands for all of them")
    return wanted


def check_live(model: Any, encoded: Encoded, site: str, layer: int) -> None:
    """Raise an error if `site` is a read-out, which nothing that is patched into it could change.

    Asked once per model and site: it is disturbed strongly, at all positions, and the logits at the answer must move.
    """
    name = hook_name(site, layer)
    if encoded.tokens.shape[1] < 2:  # attention to one token is the same whatever its scores are
        return
    if not once(model, ("moves", site), lambda: without_hooks(model, lambda: _moves(model, encoded, name))):
        raise ValueError(
            f"{name!r} is a read-out on this model: the forward pass does not use it, so changing it has no "
            f"effect. Patch {'v or z' if 'attn' in name else 'resid_post'} instead"
            + (" (or q and k, which the pattern is made from)." if "pattern" in name or "scores" in name else ".")
        )


def _moves(model: Any, encoded: Encoded, name: str) -> bool:
    def disturb(x: Tensor) -> Tensor:
        usual = x.abs() < 1e30  # attention scores of masked positions are -inf or nearly so, and stay it
        size = _STRENGTH * (x[usual].float().abs().mean() + 1)
        # Uneven along every axis: a softmax does not see what is added to all of its inputs.
        wave = torch.arange(x.numel(), device=x.device, dtype=torch.float32).mul(1.7).sin().view(x.shape)
        return torch.where(usual, x + (size * wave).to(x), x)

    with warnings.catch_warnings(action="ignore"):  # TransformerLens 4 itself warns about an edit of a read-out
        # The same with what changes nothing: what differs then is rounding.
        edits = disturb, lambda x: x.clone()
        hooks = [[(name, PositionedHook(None, edit, f"disturb {name}"))] for edit in edits]
        logits = sweep(model, encoded, [[], *hooks])
    clean, disturbed, rewritten = logits.float()
    rounding = _ROUNDINGS * float((clean - rewritten).abs().max())
    smallest = torch.finfo(logits.dtype).eps * float(clean.abs().max())
    return not float((clean - disturbed).abs().max()) <= max(rounding, smallest)  # nan has moved
