"""How localised knowledge is, and in which layers: figures 3 and 4 of Niu et al. 2024."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kntools.plots.theme import CATEGORIES, NEUTRAL, framed, new_figure, plain

KIND_COLOURS = {"linguistic": CATEGORIES[0], "factual": CATEGORIES[1]}
_NAMES = {"count": "|KN|", "tau": "τ", "r1": "R₁²"}


def error_bars(frame: Any, value: str, low: str, high: str, axis: str = "error_y") -> dict[str, Any]:
    """Lopsided intervals, as plotly wants them."""
    return {
        axis: {
            "type": "data", "symmetric": False, "array": (frame[high] - frame[value]).tolist(),
            "arrayminus": (frame[value] - frame[low]).tolist(), "thickness": 1.2, "width": 3, "color": NEUTRAL,
        }
    }  # fmt: skip


def localisation_bars(result: Any, *, title: str | None = None) -> go.Figure:
    """|KN|, tau and R1^2 per paradigm and relation: means, 95 % bootstrap intervals, and the null as a mark."""
    frame = result.summary()
    figure = make_subplots(
        rows=1, cols=3, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=list(_NAMES.values())
    )
    for column, name in enumerate(_NAMES, start=1):
        for kind, some in frame.groupby("kind", sort=False):
            figure.add_bar(
                x=some[name], y=some["source"].map(plain), orientation="h", name=plain(str(kind)), legendgroup=kind,
                showlegend=column == 1, marker_color=KIND_COLOURS.get(str(kind), NEUTRAL), customdata=some["groups"],
                hovertemplate="%{y}: %{x:.3f} (n = %{customdata})<extra>%{fullData.name}</extra>",
                **error_bars(some, name, f"{name}_low", f"{name}_high", "error_x"), row=1, col=column,
            )  # fmt: skip
        if f"null_{name}" in frame:
            figure.add_scatter(
                x=frame[f"null_{name}"], y=frame["source"].map(plain), mode="markers", name="null",
                legendgroup="null", showlegend=column == 1, marker={"symbol": "x", "size": 8, "color": NEUTRAL},
                hovertemplate="%{y}: null %{x:.3f}<extra></extra>", row=1, col=column,
            )  # fmt: skip
    framed(figure, title or result.describe(), height=240 + 26 * len(frame), panels=True)
    figure.update_layout(title={"x": 0.02, "xref": "container"})  # names of paradigms are long
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def layer_bars(result: Any, *, title: str | None = None) -> go.Figure:
    """Share of a group's knowledge neurons per layer, with 95 % intervals over groups."""
    frame = result.to_frame()
    figure = new_figure(title or result.describe(), height=400, x="layer", y="share of a group's neurons")
    for n, (kind, some) in enumerate(frame.groupby("kind", sort=False)):
        figure.add_bar(
            x=some["layer"], y=some["share"], name=plain(str(kind)), customdata=some["neurons"],
            marker_color=KIND_COLOURS.get(str(kind), CATEGORIES[n % len(CATEGORIES)]),
            hovertemplate="layer %{x}: %{y:.3f} (%{customdata} neurons)<extra>%{fullData.name}</extra>",
            **error_bars(some, "share", "low", "high"),
        )  # fmt: skip
    figure.update_layout(
        barmode="group", xaxis={"tickformat": "d", "showgrid": False}, yaxis={"rangemode": "tozero"}
    )  # fmt: skip
    return figure
