"""Patching by gradients: what a patch would change, to first order or averaged along the way to the other run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.engine.sweep import Intervention, sweep, sweep_gradients
from kntools.hooks.positioned import PositionedHook, position_axis
from kntools.hooks.states import freeze
from kntools.models import adapter
from kntools.patching.pair_batches import Batch, States
from kntools.sites import Hook, hook_name

# Rows whose gradients are held at a time.
ROWS = 128

Method = Literal["gradient", "integrated", "atp_star"]


@dataclass(frozen=True)
class Row:
    """One backward pass: at which rows of the grid it is read, and how much it counts there."""

    pair: int
    at: Sequence[int]
    hooks: list[Hook]
    weight: float


def gradient_cells(batch: Batch, sources: States) -> tuple[Float[Tensor, " pair"], dict[str, Tensor]]:
    """`own + (other - own) . d metric / d activation`, at the run that is patched."""
    states, own = batch.capture_cells(batch.patched)
    windows = batch.cells.windows
    if all(len(window) == 1 for window in windows):  # one backward pass gives the gradients of all layers
        rows = [Row(p, range(len(windows)), [], 1.0) for p in range(len(batch.pairs))]
    else:
        rows = _path(batch, sources, states, [0.0], [1.0])
    effects, _ = _estimate(batch, sources, states, rows)
    return own, {"per_pair": own[:, None, None] + effects}


def integrated_cells(batch: Batch, sources: States, steps: int) -> tuple[Float[Tensor, " pair"], dict[str, Tensor]]:
    """The gradient averaged over the straight line to the other run, all positions of a layer together.

    `residual` is what patching the whole layer changes, minus the sum of what its cells are said to change.
    """
    states, own = batch.capture_cells(batch.patched)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    path = _path(batch, sources, states, ((1 + nodes) / 2).tolist(), (weights / 2).tolist())
    effects, whole = _estimate(batch, sources, states, path)
    ends = [Intervention(row.hooks, prompt=row.pair) for row in _path(batch, sources, states, [1.0], [1.0])]
    patched = sweep(batch.model, batch.patched, ends, metric=batch.metrics).float().cpu().view(whole.shape)
    return own, {"per_pair": own[:, None, None] + effects, "residual": patched - own[:, None] - whole}


def _path(batch: Batch, sources: States, states: States, nodes: Sequence[float], weights: Sequence[float]) -> list[Row]:
    """Runs in which the layers of a window are somewhere between both runs, and hold still but for that."""
    rows = []
    for p, (source, own) in enumerate(zip(sources, states, strict=True)):
        for i, window in enumerate(batch.cells.windows):
            held = freeze([batch.cells.site], window, own) if len(window) > 1 else []
            for node, weight in zip(nodes, weights, strict=True):
                moved = [_toward(source, hook_name(batch.cells.site, n), node) for n in window if node]
                rows.append(Row(p, [i], [*held, *moved], weight))
    return rows


def _toward(source: dict[str, Tensor], name: str, share: float) -> Hook:
    def move(x: Tensor, other: Tensor) -> Tensor:
        there = other.to(x)
        return torch.where(there == x, x, x + share * (there - x))  # masked attention scores are -inf in both runs

    return name, PositionedHook(None, move, f"move {name}", name=name, whole=source[name])


def _estimate(
    batch: Batch, sources: States, states: States, rows: Sequence[Row]
) -> tuple[Float[Tensor, "pair layer column"], Float[Tensor, "pair layer"]]:
    """What the rows say that each cell changes, and all of its layer."""
    cells, pairs = batch.cells, len(batch.pairs)
    effects = torch.zeros(pairs, len(cells.windows), len(cells.columns), dtype=torch.float32)
    whole = torch.zeros(pairs, len(cells.windows), dtype=torch.float32)
    for part in (rows[first : first + ROWS] for first in range(0, len(rows), ROWS)):
        read = [sorted({n for i in row.at for n in cells.windows[i]}) for row in part]
        runs = [
            Intervention(row.hooks, prompt=row.pair, wrt=[(hook_name(cells.site, n), None) for n in layers])
            for row, layers in zip(part, read, strict=True)
        ]
        for row, found in zip(part, sweep_gradients(batch.model, batch.patched, runs, batch.metrics), strict=True):
            for i in row.at:
                for name in (hook_name(cells.site, n) for n in cells.windows[i]):
                    change = shift(batch.model, name, states[row.pair], sources[row.pair])
                    slope = found.wrt[name].gradient[0]
                    product = row.weight * (change.to(slope) * slope).float().cpu()
                    effects[row.pair, i] += cells.sum_per_column(product, batch.pairs[row.pair])
                    whole[row.pair, i] += product.sum()
    return effects, whole


def shift(model: Any, name: str, own: dict[str, Tensor], other: dict[str, Tensor]) -> Float[Tensor, "pos ..."]:
    """What a patch of a whole hook point changes there."""
    axis = position_axis(adapter.hook_point(model, name), model)
    a, b = (states[name].movedim(axis, 1)[0] for states in (own, other))
    return torch.where(a == b, 0, b - a)  # masked attention scores are -inf in both runs
