"""Mean scores of the leading neurons by class of answers: figure 1 of Niu et al. 2024."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from kntools.plots.theme import diverging, new_figure, plain


def class_heatmap(profile: Any, k: int = 3, *, title: str | None = None) -> go.Figure:
    """The `k` leading neurons of every class, and their mean score in all classes; red adds to the answer."""
    neurons = profile.leading(k)
    values = [[float(scores[n.layer, n.index]) for n in neurons] for scores in profile.scores]
    strongest = max((abs(v) for row in values for v in row), default=1.0) or 1.0
    figure = new_figure(title or profile.describe(), height=230 + 30 * len(values), x="neuron", y="answer")
    figure.add_heatmap(
        z=values, x=[repr(n) for n in neurons], y=[plain(c) for c in profile.classes], zmin=-strongest, zmax=strongest,
        colorscale=diverging(0.7), colorbar={"title": "score", "exponentformat": "power"},
        hovertemplate="<b>%{x}</b>, %{y}<br>mean score %{z:.3g}<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category")
    return figure
