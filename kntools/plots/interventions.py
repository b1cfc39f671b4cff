"""What interventions do to answers: a matrix of changes, and a comparison with random neurons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.plots.theme import NEUTRAL, POSITIVE, diverging, new_figure, plain


def change_matrix(
    changes: Float[Tensor, "row column"],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str = "Change of the answer's probability",
    row_title: str = "neurons of",
    column_title: str = "answer to",
) -> go.Figure:
    """How much each intervention (row) changes each answer (column).

    ```python
    kn.plots.change_matrix(after - before, facts, facts)     # [fact fact]
    ```

    Raises:
        ValueError: labels that do not fit, or changes that are not finite.
    """
    values = _checked(changes, (len(rows), len(columns)), "changes")
    largest = float(np.abs(values).max()) or 1.0
    figure = new_figure(title, height=170 + 34 * max(len(rows), 3), x=column_title, y=row_title)
    figure.add_heatmap(
        z=values,
        x=[plain(c) for c in columns],
        y=[plain(r) for r in rows],
        hovertemplate="neurons of <b>%{y}</b><br>answer to <b>%{x}</b><br>%{z:+.4f}<extra></extra>",
        coloraxis="coloraxis",
        xgap=2,
        ygap=2,
    )
    # Text of its own trace: the heatmap's own chooses its colour as if the background were always white.
    figure.add_scatter(
        x=[plain(c) for c in columns] * len(rows),
        y=[plain(r) for r in rows for _ in columns],
        text=[_signed(v) for v in values.ravel().tolist()],
        mode="text",
        textfont={"size": 11},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.update_layout(
        coloraxis={
            "colorscale": diverging(strongest=0.75),
            "cmin": -largest,
            "cmax": largest,
            "showscale": False,  # every cell says its value
        },
        xaxis={"type": "category", "showgrid": False, "tickangle": -45, "range": [-0.5, len(columns) - 0.5]},
        yaxis={"type": "category", "showgrid": False, "range": [len(rows) - 0.5, -0.5]},
    )
    return figure


def against_random(
    labels: Sequence[str],
    before: Float[Tensor, " item"],
    after: Float[Tensor, " item"],
    random: Float[Tensor, "item draw"],
    *,
    title: str = "Suppressing the leading neurons and random ones",
    name: str = "leading neurons",
    unit: str = "probability of the answer",
) -> go.Figure:
    """Values before and after an intervention, and after the same one on random neurons (one dot per draw).

    ```python
    kn.plots.against_random(facts, clean, suppressed, suppressed_at_random)      # [fact], [fact], [fact draw]
    ```

    Raises:
        ValueError: tensors that do not fit the labels, or values that are not finite.
    """
    count = len(labels)
    clean, edited = _checked(before, (count,), "before"), _checked(after, (count,), "after")
    draws = _checked(random, (count, None), "random")
    y = [plain(text) for text in labels]
    figure = new_figure(title, height=150 + 34 * max(count, 3), x=unit, y="")
    for start, end, row in zip(clean, edited, y, strict=True):
        figure.add_scatter(
            x=[start, end], y=[row, row], mode="lines", line={"color": POSITIVE, "width": 2}, opacity=0.45,
            showlegend=False, hoverinfo="skip",
        )  # fmt: skip
    figure.add_scatter(
        x=draws.ravel().tolist(),
        y=[row for row in y for _ in range(draws.shape[1])],
        mode="markers",
        name=f"random neurons ({draws.shape[1]} draws)",
        marker={"size": 8, "color": NEUTRAL, "opacity": 0.55},
        hovertemplate="<b>%{y}</b><br>random neurons %{x:.4f}<extra></extra>",
    )
    for values, what, symbol, size in ((clean, "untouched", "line-ns-open", 18), (edited, name, "diamond", 12)):
        colour = {"color": POSITIVE, "line": {"color": POSITIVE, "width": 3 if symbol.endswith("open") else 0}}
        figure.add_scatter(
            x=values.tolist(),
            y=y,
            mode="markers",
            name=plain(what),
            marker={"symbol": symbol, "size": size, **colour},
            hovertemplate=f"<b>%{{y}}</b><br>{plain(what)} %{{x:.4f}}<extra></extra>",
        )
    figure.update_layout(
        xaxis={"rangemode": "tozero"},
        yaxis={"type": "category", "autorange": "reversed", "dtick": 1},
    )
    return figure


def _signed(value: float) -> str:
    shown = f"{value:+.2f}"
    return "0.00" if float(shown) == 0 else shown


def _checked(values: Tensor, shape: tuple[int | None, ...], what: str) -> np.ndarray:
    found = torch.as_tensor(values).detach().cpu().double().numpy()
    fits = found.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, found.shape, strict=True))
    if not fits:
        wanted = " x ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{what} must have the shape {wanted}, one per label, not {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"{what} holds nan or inf")
    return found
