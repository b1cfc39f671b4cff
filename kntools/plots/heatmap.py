"""Layers x neurons, so that the scores of a whole model can be read from one figure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kntools.plots.given import Given, label, read_neurons, read_scores
from kntools.plots.theme import MARK, diverging, new_figure
from kntools.sites import Neuron


@dataclass(frozen=True)
class _Cells:
    """Which neuron stands in each cell."""

    index: np.ndarray  # [layer column]
    columns: list[str]
    axis: str


def neuron_heatmap(
    att: Any,
    *,
    prompt: int | None = None,
    columns: int = 40,
    mode: str = "leading",
    mark: Any = None,
    power: float = 0.5,
) -> go.Figure:
    """Scores as layers x neurons. Red raises the answer's probability, blue lowers it.

    ```python
    kn.plots.neuron_heatmap(att)                            # the neurons that lead in any layer
    kn.plots.neuron_heatmap(att, mode="bins", columns=96)   # every neuron of the model, 16 to a cell
    kn.plots.neuron_heatmap(att, mark=kn.knowledge_neurons(att))
    ```

    Arguments:
        att: an `Attribution`, or scores `[prompt layer neuron]`.
        prompt: whose scores; `None` is the mean over prompts.
        columns: how many, at most.
        mode: what a column is. `"leading"`: a neuron index, of those with the highest |score| in any layer (as in Niu
            et al. 2024, figure 1). `"ranked"`: a place within the layer, the highest |score| on the left. `"bins"`:
            neurons of neighbouring index, of which the highest |score| is shown with its sign, so that no neuron of
            the model is left out.
        mark: neurons to frame, e.g. `KnowledgeNeurons`; in mode `"leading"` each gets a column.
        power: the colour's strength is `(|score| / highest |score|) ** power`; 1 is linear.

    Returns:
        A figure. Hovering shows the neuron of a cell, its score, and its rank among all neurons.

    Raises:
        ValueError: not scores, an unknown mode, `columns` or `power` out of range.
        IndexError: a prompt or marked neuron that does not exist.
    """
    given = read_scores(att, prompt)
    if columns < 1:
        raise ValueError(f"columns={columns}; a heatmap has at least 1")
    if power <= 0:
        raise ValueError(f"power={power}; it must be above 0 (0.5: small scores stay visible; 1: linear)")
    marked = _check(given, [] if mark is None else read_neurons(mark))
    cells = _choose(given, mode, min(columns, given.width), marked)

    z = np.take_along_axis(given.chosen, cells.index, axis=1)
    largest = float(np.abs(given.chosen).max()) or 1.0
    figure = new_figure(
        f"Neuron scores: {given.what}", height=150 + 15 * max(given.layers, 12), x=cells.axis, y="layer"
    )
    figure.add_heatmap(
        z=z,
        x=cells.columns,
        y=list(range(given.layers)),
        text=[[f"L{layer}.N{index}" for index in row] for layer, row in enumerate(cells.index.tolist())],
        customdata=np.take_along_axis(given.ranks, cells.index, axis=1),
        hovertemplate=(
            f"<b>%{{text}}</b><br>score %{{z:.3g}}<br>rank %{{customdata:,}} of {given.chosen.size:,}<extra></extra>"
        ),
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
    )
    outlines = _outlines(cells, marked)
    figure.update_layout(
        shapes=outlines,
        showlegend=bool(outlines),
        coloraxis={
            "colorscale": diverging(power),
            "cmin": -largest,
            "cmax": largest,
            "colorbar": {
                "title": {"text": label("score", given.unit), "side": "right"},
                "thickness": 14,
                "tickformat": ".2~g",
                "outlinewidth": 0,
            },
        },
        xaxis={
            "type": "category",
            "showgrid": False,
            "tickangle": -90,
            "range": [-0.5, len(cells.columns) - 0.5],
        },
        yaxis={"showgrid": False, "zeroline": False, "range": [-0.5, given.layers - 0.5], "tickformat": "d"},
    )
    return figure


def _check(given: Given, marked: Iterable[Neuron]) -> list[Neuron]:
    for n in (found := list(dict.fromkeys(marked))):
        if n.layer >= given.layers or n.index >= given.width:
            raise IndexError(f"neuron {n} cannot be marked: there are {given.layers} layers of {given.width} neurons")
    return found


def _choose(given: Given, mode: str, columns: int, marked: list[Neuron]) -> _Cells:
    strength = np.abs(given.chosen)
    if mode == "leading":
        order = np.argsort(-strength.max(axis=0), kind="stable")
        wanted = list(dict.fromkeys([*(n.index for n in marked), *order.tolist()]))
        kept = sorted(wanted[: max(columns, len({n.index for n in marked}))])
        index = np.tile(np.array(kept), (given.layers, 1))
        return _Cells(
            index, [str(i) for i in kept], f"neuron index ({len(kept)} of {given.width:,} that lead in any layer)"
        )
    if mode == "ranked":
        index = np.argsort(-strength, axis=1, kind="stable")[:, :columns]
        return _Cells(index, [str(i + 1) for i in range(columns)], "place within the layer, by |score|")
    if mode == "bins":
        edges = np.linspace(0, given.width, columns + 1).round().astype(int)
        parts = [a + strength[:, a:b].argmax(axis=1) for a, b in pairwise(edges.tolist())]
        size = -(-given.width // columns)
        axis = f"neuron index, {size} to a cell (the strongest is shown)"
        return _Cells(np.stack(parts, axis=1), [str(a) for a in edges[:-1].tolist()], axis)
    raise ValueError(f"mode={mode!r} is unknown; use 'leading', 'ranked' or 'bins'")


def _outlines(cells: _Cells, marked: list[Neuron]) -> list[dict[str, Any]]:
    """A frame around the cell of each marked neuron that has one (or stands for its bin)."""
    wanted = {(n.layer, n.index) for n in marked}
    found = [
        (column, layer)
        for layer, row in enumerate(cells.index.tolist())
        for column, index in enumerate(row)
        if (layer, index) in wanted
    ]
    name = "marked neurons" if len(found) == len(wanted) else f"marked neurons ({len(found)} of {len(wanted)} in view)"
    return [
        {
            "type": "rect",
            "x0": column - 0.5,
            "x1": column + 0.5,
            "y0": layer - 0.5,
            "y1": layer + 0.5,
            "line": {"color": MARK, "width": 2.5},
            "name": name,
            "legendgroup": "marked",
            "showlegend": number == 0,
        }
        for number, (column, layer) in enumerate(found)
    ]
