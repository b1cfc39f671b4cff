"""Neurons: all of a model in one heatmap, the leading ones as bars, and the layers in which they lie."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Unpack

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from kntools.arguments import decimal, whole, without_effect
from kntools.plots.charts import bar_chart
from kntools.plots.heatmaps import heatmap
from kntools.plots.scores import read_neurons, read_scores, score_title
from kntools.plots.theme import MARK, NEGATIVE, POSITIVE, Look, framed, sampled
from kntools.sites import Neuron


def neuron_heatmap(
    att: Any,
    *,
    prompt: int | None = None,
    columns: int = 40,
    mode: str = "leading",
    mark: Any = None,
    power: float = 0.5,
    **look: Unpack[Look],
) -> go.Figure:
    """Scores as layers x neurons. Red raises the metric (the answer's probability, say), blue lowers it.

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
            neurons of neighbouring index, of which the highest |score| is shown with its sign; no neuron of
            the model is left out.
        mark: neurons to frame, e.g. `KnowledgeNeurons`; in mode `"leading"` each gets a column.
        power: the colour's strength is `(|score| / highest |score|) ** power`; 1 is linear.

    Returns:
        A figure. Hovering shows the neuron of a cell, its score, and its rank among all neurons.
    """
    columns, power = whole("columns", columns, least=1), decimal("power", power, above=0)
    given = read_scores(att, prompt)
    layers, width = given.chosen.shape
    marked = list(dict.fromkeys([] if mark is None else read_neurons(mark)))
    for n in marked:
        if n.layer >= layers or n.index >= width or not given.exists[n.layer, n.index]:
            raise IndexError(f"neuron {n} cannot be marked: there are {layers} layers of at most {width} neurons")
    strength = np.where(given.exists, np.abs(given.chosen), -1)  # what is no neuron comes last
    index, labels, axis = _columns(strength, mode, min(columns, width), {n.index for n in marked})
    table = pd.DataFrame(np.take_along_axis(given.chosen, index, axis=1), columns=labels)
    largest = float(np.abs(given.chosen).max()) or 1.0
    look = {"title": f"Neuron scores: {given.what}", **look}
    figure = heatmap(table, x=axis, unit=given.unit, power=power, limits=(-largest, largest), **look)
    rank = f"rank %{{customdata:,}} of {given.exists.sum():,}"
    shown = np.take_along_axis(given.exists, index, axis=1)
    figure.update_traces(
        z=np.where(shown, table, np.nan),
        hoverongaps=False,
        text=[[repr(Neuron(layer, i)) for i in row] for layer, row in enumerate(index.tolist())],
        customdata=np.take_along_axis(given.ranks, index, axis=1),
        hovertemplate=f"<b>%{{text}}</b><br>score %{{z:.3g}}<br>{rank}<extra></extra>",
    )
    figure.update_layout(xaxis_tickangle=-90, yaxis_range=[-0.5, layers - 0.5])
    # A frame around the cell of each marked neuron that has one (or stands for its bin).
    found = [(n.layer, c) for n in marked for c in np.flatnonzero(index[n.layer] == n.index).tolist()]
    in_view = "" if len(found) == len(marked) else f" ({len(found)} of {len(marked)} in view)"
    for number, (layer, column) in enumerate(found):
        box = {"x0": column - 0.5, "x1": column + 0.5, "y0": layer - 0.5, "y1": layer + 0.5}
        legend = {"name": f"marked neurons{in_view}", "legendgroup": "marked", "showlegend": number == 0}
        figure.add_shape(type="rect", line={"color": MARK, "width": 2.5}, **box, **legend)
    return framed(figure, **look)  # again, for the legend


def _columns(strength: np.ndarray, mode: str, columns: int, marked: set[int]) -> tuple[np.ndarray, list[str], str]:
    """The index of the neuron of each cell `[layer column]`, the names of the columns, and that of the axis."""
    layers, width = strength.shape
    if mode == "leading":
        order = np.argsort(-strength.max(axis=0), kind="stable").tolist()
        kept = sorted(list(dict.fromkeys([*marked, *order]))[: max(columns, len(marked))])
        axis = f"neuron index ({len(kept)} of {width:,} that lead in any layer)"
        return np.tile(kept, (layers, 1)), list(map(str, kept)), axis
    if mode == "ranked":
        index = np.argsort(-strength, axis=1, kind="stable")[:, :columns]
        return index, [str(i + 1) for i in range(columns)], "place within the layer, by |score|"
    if mode == "bins":
        edges = np.linspace(0, width, columns + 1).round().astype(int).tolist()
        index = np.stack([a + strength[:, a:b].argmax(axis=1) for a, b in pairwise(edges)], axis=1)
        axis = f"neuron index, {-(-width // columns)} to a cell (the strongest is shown)"
        return index, list(map(str, edges[:-1])), axis
    raise ValueError(f"mode={mode!r} is unknown; use 'leading', 'ranked' or 'bins'")


def neuron_bars(given: Any, k: int = 20, *, prompt: int | None = None, **look: Unpack[Look]) -> go.Figure:
    """The leading neurons with their scores, the first at the top; a dot for each prompt.

    ```python
    kn.plots.neuron_bars(att, k=10)
    kn.plots.neuron_bars(kn.knowledge_neurons(att))
    ```

    Arguments:
        given: an `Attribution`, scores `[prompt layer neuron]`, or a `KnowledgeNeurons`.
        k: how many at most, by score.
        prompt: whose scores; `None` is the mean over prompts, with the single prompts as dots.
    """
    k = whole("k", k, least=1)
    if hasattr(given, "counts"):
        without_effect("for knowledge neurons, whose scores are means over prompts", prompt=prompt)
        frame = pd.DataFrame({"neuron": list(map(repr, given.neurons)), "score": given.scores})[:k]
        frame["note"] = [f"in the coarse sets of {c} of {given.prompts} prompts" for c in given.counts[:k]]
        title = f"Knowledge neurons of {given.prompts} prompts (τ = {given.share:.2f}"
        title += ")" if given.converged else ", not converged)"
        unit, dots = f"{score_title(given)}, mean over prompts", None
    else:
        scores = read_scores(given, prompt)
        ranks, title, unit = scores.ranks.ravel(), f"Leading neurons: {scores.what}", scores.unit
        leading = np.argsort(ranks)[: scores.exists.sum()][:k]
        names = [repr(Neuron(*divmod(i, scores.chosen.shape[1]))) for i in leading.tolist()]
        frame = pd.DataFrame({"neuron": names, "score": scores.chosen.ravel()[leading]})
        frame["note"] = [f"rank {rank:,} of {scores.exists.sum():,}" for rank in ranks[leading]]
        each = pd.DataFrame(scores.each.reshape(len(scores.each), -1)[:, leading], columns=names)
        each = each.stack().rename_axis(["prompt", "neuron"]).rename("score").reset_index()
        dots = {"single prompts": each} if prompt is None and len(scores.each) > 1 else None
    options: dict[str, Any] = {"labels": {"neuron": "", "score": unit}, "title": title, **look}
    figure = bar_chart(frame, "score", "neuron", dots=dots, hover_data=["note"], **options)
    low, high = (NEGATIVE, POSITIVE) if look.get("colorscale") is None else sampled(look["colorscale"], 2)
    colours = [high if score >= 0 else low for score in frame["score"]]
    return figure.update_traces(marker_color=colours, selector={"type": "bar"})


def layer_histogram(
    neurons: Any, *, n_layers: int | None = None, normalize: bool = False, stacked: bool = False, **look: Unpack[Look]
) -> go.Figure:
    """How neurons are distributed over the layers: one group, or several side by side.

    ```python
    kn.plots.layer_histogram(kns, n_layers=30)
    kn.plots.layer_histogram({"capitals": kns_1, "agreement": kns_2}, normalize=True)     # Niu et al. 2024, figure 4
    ```

    Arguments:
        neurons: a `KnowledgeNeurons`, or `Neuron`s or `(layer, index)` pairs (a repeated one counts again), or a dict
            from a group's name to any of these.
        n_layers: layers of the model; `None` ends at the last layer that has a neuron.
        normalize: shares of each group instead of numbers.
        stacked: groups on top of each other instead of side by side.
    """
    given = neurons if isinstance(neurons, Mapping) else {"neurons": neurons}
    if not given:
        raise ValueError("no groups given; pass neurons, or a dict {name: neurons} with at least one entry")
    groups = {str(name): read_neurons(group) for name, group in given.items()}
    last = max((n.layer for group in groups.values() for n in group), default=0)
    if n_layers is not None and last >= n_layers:
        raise ValueError(f"a neuron is in layer {last}, but n_layers={n_layers}; give the model's number of layers")
    rows = []
    for name, group in groups.items():
        for layer in range(n_layers or last + 1):
            here = [n for n in group if n.layer == layer]
            count = {"number of neurons": len(here), "share of the group's neurons": len(here) / max(1, len(group))}
            rows.append({"group": f"{name} (n = {len(group)})", "layer": layer, **count, "neurons": _first(here)})
    frame = pd.DataFrame(rows)
    options: dict[str, Any] = {"title": "Neurons per layer", **look}
    figure = bar_chart(
        frame,
        "layer",
        "share of the group's neurons" if normalize else "number of neurons",
        color="group" if len(groups) > 1 else None,
        hover_data=["number of neurons", "neurons"],
        barmode="stack" if stacked else "group",
        **options,
    )
    highest = frame.groupby("layer")["number of neurons"].agg("sum" if stacked else "max").max()
    few = not normalize and highest <= 6  # no half neurons
    return figure.update_yaxes(tickformat=".0%" if normalize else ",d", dtick=1 if few else None)


def _first(neurons: list[Neuron], most: int = 6) -> str:
    names = list(dict.fromkeys(map(repr, neurons)))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
