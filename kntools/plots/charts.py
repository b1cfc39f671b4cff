"""Bars, lines and dots of a table: those of plotly express, with intervals and in the common look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Unpack

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kntools.plots.theme import CATEGORIES, COLOURS, NEUTRAL, Look, framed, plain

_PANEL, _BETWEEN = 290, 70  # pixels: a panel, and between two rows of them


def bar_chart(
    frame: pd.DataFrame,
    x: str,
    y: str,
    *,
    low: str = "",
    high: str = "",
    dots: Mapping[str, pd.DataFrame] | None = None,
    **options: Any,
) -> go.Figure:
    """A bar for each row of a table. Where `y` holds names and `x` numbers, the bars lie.

    ```python
    kn.plots.bar_chart(frame, "score", "value", low="low", high="high", color="method", hover_data=["n"])
    ```

    Arguments:
        frame: a row per bar.
        x, y: columns.
        low, high: columns with the ends of each bar's interval.
        dots: name -> a table with the same columns, whose rows are drawn as dots over the bars.
        options: of `plotly.express.bar`: `color`, `facet_col` (a panel for each of its values), `facet_col_wrap`,
            `hover_data`, `labels`, `barmode` ...; `one_scale=False` for panels with scales of their own; and `title`,
            `width`, `height`.
    """
    lying = _names(frame, y) and not _names(frame, x)
    value, axis = (x, "x") if lying else (y, "y")
    if low and high:
        frame = frame.assign(above=frame[high] - frame[value], below=frame[value] - frame[low])
        options |= {f"error_{axis}": "above", f"error_{axis}_minus": "below"}
    height = 24 + 26 * max(3, frame[y].nunique()) if lying else _PANEL
    figure, look = _drawn(px.bar, frame, x, y, height, **{"barmode": "group", **options})
    if low and high:
        figure.update_traces({f"error_{axis}": {"symmetric": False, "thickness": 1.2, "width": 3, "color": NEUTRAL}})
    for name, table in (dots or {}).items():
        more = [column for column in table if column not in frame]
        over, _ = _drawn(px.scatter, table, x, y, height, hover_data=more, **_shared(options))
        over.update_traces(name=plain(name), legendgroup=name, marker={"size": 8, "color": NEUTRAL})
        over.update_traces(marker_line={"width": 1, "color": "#ffffff"}).data[0].showlegend = True
        figure.add_traces(over.data)
    return framed(figure, "", **look)


def line_chart(frame: pd.DataFrame, x: str, y: str, *, low: str = "", high: str = "", **options: Any) -> go.Figure:
    """A line for each `color` of a table, with a band where there are intervals.

    ```python
    kn.plots.line_chart(profile.to_frame(), "layer", "effect", low="low", high="high", color="role", facet_col="kind")
    ```

    Arguments:
        frame: a row per point.
        x, y: columns.
        low, high: columns with the ends of each point's interval.
        options: of `plotly.express.line`, as in `bar_chart`.
    """
    ends = {"custom_data": [low, high]} if low and high else {}
    figure, look = _drawn(px.line, frame, x, y, _PANEL, render_mode="svg", **ends, **options)
    for line in figure.data if ends else ():
        below, above = line.customdata[:, :2].astype(float).T
        if np.isfinite(below).all():
            place = {"xaxis": line.xaxis, "yaxis": line.yaxis, "legendgroup": line.legendgroup, "showlegend": False}
            around = {"x": [*line.x, *line.x[::-1]], "y": [*above, *below[::-1]], "mode": "none", "hoverinfo": "skip"}
            figure.add_scatter(**around, **place, fill="toself", fillcolor=line.line.color, opacity=0.18)
    return framed(figure, "", **look)


def scatter_chart(frame: pd.DataFrame, x: str, y: str, *, join: str = "", **options: Any) -> go.Figure:
    """A dot for each row of a table.

    ```python
    kn.plots.scatter_chart(scan.to_frame(att), "score", "effect", text="neuron")
    ```

    Arguments:
        frame: a row per dot.
        x, y: columns.
        join: a column: a thin line joins the dots that have the same value, e.g. before and after.
        options: of `plotly.express.scatter`, as in `bar_chart`; `text` is a column with what stands beside the dots.
    """
    height = 24 + 22 * max(3, frame[y].nunique()) if _names(frame, y) else _PANEL
    figure, look = _drawn(px.scatter, frame, x, y, height, **options)
    figure.update_traces(marker_size=5 if len(frame) > 100 else 10)
    if "text" in options:
        _part_names(figure)
    if join:
        whole = frame[frame[join].notna()]
        lines, _ = _drawn(px.line, whole, x, y, height, line_group=join, **_shared(options))
        lines.update_traces(line={"color": NEUTRAL, "width": 1.5}, hoverinfo="skip", hovertemplate=None)
        figure = go.Figure([*lines.data, *figure.data], figure.layout)
    return framed(figure, "", **look)


def _part_names(figure: go.Figure) -> None:
    """Of two neighbours, the upper one has its name above and the lower one below."""
    named = [(-y, t, i) for t, dots in enumerate(figure.data) for i, y in enumerate(dots.y) if dots.text[i]]
    below = {(t, i) for _, t, i in sorted(named)[1::2]}
    for t, dots in enumerate(figure.data):
        dots.textposition = ["bottom center" if (t, i) in below else "top center" for i in range(len(dots.y))]


def beside(figures: Mapping[str, go.Figure], **look: Unpack[Look]) -> go.Figure:
    """Bars that lie and a heatmap with the same rows, say: name of the panel -> figure."""
    parts = list(figures.values())
    figure = make_subplots(cols=len(parts), shared_yaxes=True, subplot_titles=list(map(plain, figures)))
    for number, part in enumerate(parts, start=1):
        figure.add_traces(part.data, rows=1, cols=number)
        figure.update_layout(coloraxis=part.layout.coloraxis)
    figure.update_yaxes(type="category", autorange="reversed")
    plot = max(part.layout.height - part.layout.margin.t - part.layout.margin.b for part in parts)
    return framed(figure, "", plot=plot, **look)


def _shared(options: dict[str, Any]) -> dict[str, Any]:
    """What is the same for everything in the panels of a figure."""
    return {name: value for name, value in options.items() if name.startswith("facet") or name == "one_scale"}


def _names(frame: pd.DataFrame, column: str) -> bool:
    return not pd.api.types.is_numeric_dtype(frame[column])


def _drawn(
    draw: Callable[..., go.Figure], frame: pd.DataFrame, x: str, y: str, panel: int, **options: Any
) -> tuple[go.Figure, Any]:
    """What plotly express draws, with text as it is and names of panels alone; and what `framed` gets."""
    look = {name: options.pop(name) for name in Look.__annotations__ if name in options}
    one_scale, facet, hover = options.pop("one_scale", True), options.get("facet_col"), options.pop("hover_data", {})
    rows = -(-frame[facet].nunique() // options.setdefault("facet_col_wrap", 3)) if facet else 1
    plot = panel * rows + _BETWEEN * (rows - 1)
    table = frame.map(lambda cell: plain(cell) if isinstance(cell, str) else cell)
    columns = [c for c in (x, y, facet, options.get("color")) if c and _names(frame, c)]
    groups = list(table[options["color"]].unique()) if options.get("color") in columns else []
    colours = {name: CATEGORIES[n % len(CATEGORIES)] for n, name in enumerate(groups)}
    colours |= {**COLOURS, **options.get("color_discrete_map", {})}
    numbers = {c: ":.4g" for c in (x, y) if c not in columns and pd.api.types.is_float_dtype(frame[c])}
    figure = draw(
        table,
        x=x,
        y=y,
        template="kntools",
        facet_row_spacing=_BETWEEN / plot,
        facet_col_spacing=0.03 if one_scale else 0.06,
        category_orders={column: table[column].unique() for column in columns},
        hover_data=numbers | (hover if isinstance(hover, dict) else dict.fromkeys(hover, True)),
        **{**options, "color_discrete_map": colours},
    )
    notes = [note.update(text=note.text.partition("=")[2], y=round(note.y, 6)) for note in figure.layout.annotations]
    figure.layout.annotations = sorted(notes, key=lambda note: (-note.y, note.x))
    if not _names(frame, x):
        figure.update_xaxes(showticklabels=True, **({} if one_scale else {"matches": None}))
    if not _names(frame, y) and not one_scale:
        figure.update_yaxes(showticklabels=True, matches=None)
    return figure, {"plot": plot, **look}
