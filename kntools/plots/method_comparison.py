"""Ways to choose neurons, side by side."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kntools.plots.localisation import error_bars
from kntools.plots.theme import CATEGORIES, framed, plain


def method_panels(result: Any, *, title: str | None = None) -> go.Figure:
    """Left: what the answer loses when a method's neurons are suppressed. Right: which neurons methods share."""
    frame, overlap = result.summary(), result.overlap()
    names = frame["method"].tolist()
    shared = {frozenset((row.one, row.other)): row.jaccard for row in overlap.itertuples()}
    table = [[1.0 if a == b else shared[frozenset((a, b))] for b in names] for a in names]
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06,
        subplot_titles=["drop of the probability", "overlap (Jaccard)"],
    )  # fmt: skip
    figure.add_bar(
        x=frame["drop"], y=frame["method"].map(plain), orientation="h", marker_color=CATEGORIES[0], showlegend=False,
        customdata=frame[["gradients", "seconds", "n"]],
        hovertemplate="%{y}: %{x:.3f}<br>%{customdata[0]:.0f} gradients, %{customdata[1]:.2f} s per prompt, "
        "n = %{customdata[2]}<extra></extra>",
        **error_bars(frame, "drop", "low", "high", "error_x"), row=1, col=1,
    )  # fmt: skip
    shown = [plain(name) for name in names]
    figure.add_heatmap(
        z=table, x=shown, y=shown, zmin=0, zmax=1, colorscale=[[0, "rgba(15,127,196,0)"], [1, "rgba(15,127,196,0.8)"]],
        showscale=False, texttemplate="%{z:.2f}", hovertemplate="%{y} and %{x}: %{z:.3f}<extra></extra>", row=1, col=2,
    )  # fmt: skip
    framed(figure, title or result.describe(), height=430, panels=True)
    figure.update_yaxes(autorange="reversed", type="category")
    return figure
