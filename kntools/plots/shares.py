"""Shares with intervals: figures 2 and 8 of Niu et al. 2024."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from kntools.plots.localisation import error_bars
from kntools.plots.theme import CATEGORIES, NEUTRAL, new_figure, plain


def pair_shares(result: Any, neurons: Any = None, *, title: str | None = None) -> go.Figure:
    """Share of pairs in which each neuron is found, per determiner (figure 2)."""
    frame = result.shares(neurons)
    figure = new_figure(title or result.describe(), height=420, x="determiner", y="share of pairs")
    for n, (neuron, some) in enumerate(frame.groupby("neuron", sort=False) if len(frame) else ()):
        figure.add_bar(
            x=some["determiner"], y=some["share"], name=plain(str(neuron)), customdata=some[["found", "pairs"]],
            marker_color=CATEGORIES[n % len(CATEGORIES)],
            hovertemplate="%{x}: %{customdata[0]} of %{customdata[1]} pairs<extra>%{fullData.name}</extra>",
            **error_bars(some, "share", "low", "high"),
        )  # fmt: skip
    figure.update_layout(barmode="group", yaxis={"range": [0, 1.02], "tickformat": ".0%"})
    return figure


def overturned_bars(result: Any, *, title: str | None = None) -> go.Figure:
    """Share of predictions that each edit overturns, beside the same edit of random neurons (figure 8).

    Several sources stand side by side.
    """
    frame = result.summary()
    edits = frame["edit"].map(plain)
    places = edits if frame["source"].nunique() == 1 else [frame["source"].map(plain), edits]
    figure = new_figure(title or result.describe(), height=420, x="edit", y="share overturned")
    sides = (("share", "low", "high", "knowledge neurons", CATEGORIES[0]),
             ("random", "random_low", "random_high", "random neurons", NEUTRAL))  # fmt: skip
    for share, low, high, name, colour in sides:
        figure.add_bar(
            x=places, y=frame[share], name=name, marker_color=colour, customdata=frame["n"],
            hovertemplate="%{x}: %{y:.2%} (n = %{customdata})<extra>%{fullData.name}</extra>",
            **error_bars(frame, share, low, high),
        )  # fmt: skip
    figure.update_layout(barmode="group", yaxis={"rangemode": "tozero", "tickformat": ".1%"})
    return figure
