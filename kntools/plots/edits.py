"""Scores of edits as bars with intervals."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from kntools.plots.localisation import error_bars


def edit_bars(frame: pd.DataFrame, *, condition: str = "all", title: str | None = None) -> go.Figure:
    """One group of bars per score, one bar per method, with its interval.

    Arguments:
        frame: columns `method, condition, score, value, low, high`, as `EditConsistency.to_frame` returns them.
        condition: which of the conditions to show.
        title: above the figure.

    Raises:
        ValueError: no such condition.
    """
    shown = frame[frame["condition"] == condition]
    if shown.empty:
        raise ValueError(f"no condition {condition!r}; there are {sorted(set(frame['condition']))}")
    # Bits do not go with shares: entropy has a table, not a bar.
    shown = shown[shown["score"] != "generation entropy"]
    figure = go.Figure()
    for method, rows in shown.groupby("method", sort=False):
        figure.add_bar(
            name=str(method),
            x=rows["score"],
            y=rows["value"],
            customdata=rows["n"],
            hovertemplate="%{x}: %{y:.3f} (n=%{customdata})<extra>%{fullData.name}</extra>",
            **error_bars(rows, "value", "low", "high"),
        )
    figure.update_layout(barmode="group", yaxis_title="score", title=title)
    return figure
