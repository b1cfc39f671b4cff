"""Edits of weights: how they were found, and their scores as bars with intervals."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kntools.plots.localisation import error_bars
from kntools.plots.theme import CATEGORIES, new_figure, plain

_LOSSES = {"loss": "loss", "target": "-log P(target)", "kl": "KL", "decay": "weight decay"}


def edit_bars(frame: pd.DataFrame, *, condition: str = "all", title: str = "Scores of edits") -> go.Figure:
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
    figure = new_figure(title, height=440, x="", y="score")
    for method, rows in shown.groupby("method", sort=False):
        figure.add_bar(
            name=plain(str(method)),
            x=rows["score"].map(plain),
            y=rows["value"],
            customdata=rows["n"],
            hovertemplate="%{x}: %{y:.3f} (n=%{customdata})<extra>%{fullData.name}</extra>",
            **error_bars(rows, "value", "low", "high"),
        )
    return figure.update_layout(barmode="group")


def loss_lines(edit: Any, *, title: str | None = None) -> go.Figure:
    """The value optimisation of a rank-one edit: its loss per step, and the three terms that it is the sum of.

    Arguments:
        edit: a `RankOneEdit`.
    """
    frame = edit.to_frame()
    figure = new_figure(title or edit.title(), height=400, x="step", y="nats (mean over templates)")
    for n, (column, name) in enumerate(_LOSSES.items()):
        figure.add_scatter(
            x=frame["step"], y=frame[column], mode="lines", name=name,
            line={"color": CATEGORIES[n], "width": 3 if column == "loss" else 1.5},
            hovertemplate=f"step %{{x}}: {name} %{{y:.4g}}<extra></extra>",
        )  # fmt: skip
    return figure.update_layout(xaxis={"tickformat": "d"}, yaxis={"rangemode": "tozero"})
