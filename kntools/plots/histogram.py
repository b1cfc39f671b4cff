"""Where in the model neurons lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from kntools.plots.given import read_neurons
from kntools.plots.theme import new_figure, plain


def layer_histogram(
    neurons: Any,
    *,
    n_layers: int | None = None,
    normalize: bool = False,
    stacked: bool = False,
    title: str = "Neurons per layer",
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

    Raises:
        ValueError: no group, or a neuron beyond `n_layers`.
    """
    groups = (
        {str(k): read_neurons(v) for k, v in neurons.items()}
        if isinstance(neurons, Mapping)
        else {"neurons": read_neurons(neurons)}
    )
    if not groups:
        raise ValueError("no groups given; pass neurons, or a dict {name: neurons} with at least one entry")
    last = max((n.layer for group in groups.values() for n in group), default=0)
    layers = last + 1 if n_layers is None else n_layers
    if last >= layers:
        raise ValueError(f"a neuron lies in layer {last}, but n_layers={n_layers}; give the model's number of layers")

    unit = "share of the group's neurons" if normalize else "number of neurons"
    per_layer = {name: [sum(n.layer == i for n in group) for i in range(layers)] for name, group in groups.items()}
    tallest = max(sum(c) if stacked else max(c) for c in zip(*per_layer.values(), strict=True))
    figure = new_figure(title, height=380, x="layer", y=unit)
    for name, group in groups.items():
        counts = per_layer[name]
        total = max(1, len(group))
        figure.add_bar(
            x=list(range(layers)),
            y=[c / total for c in counts] if normalize else counts,
            name=plain(f"{name} (n = {len(group)})"),
            customdata=[
                [f"{c} of {len(group)}", _some([n for n in group if n.layer == layer])]
                for layer, c in enumerate(counts)
            ],
            hovertemplate="<b>layer %{x}</b>: %{customdata[0]}<br>%{customdata[1]}<extra>%{fullData.name}</extra>",
        )
    figure.update_layout(
        barmode="stack" if stacked else "group",
        showlegend=len(groups) > 1,
        xaxis={"range": [-0.6, layers - 0.4], "tickformat": "d", "showgrid": False},
        yaxis={"rangemode": "tozero", "tickformat": ".0%" if normalize else ",d"},
    )
    if not normalize and tallest <= 6:
        figure.update_yaxes(dtick=1)  # no half neurons
    return figure


def _some(group: list[Any]) -> str:
    names = list(dict.fromkeys(map(repr, group)))
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
