"""Bars, lines and dots of a table: those of plotly express, with intervals and in the common look."""

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Unpack

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kntools.plots.theme import CATEGORIES, CHARACTER, COLOURS, NEUTRAL, WIDTH, Look, framed, plain

_PANEL, _BETWEEN = 290, 70  # pixels: a panel, and between two rows of them
_LINES = ("color", "line_group", "line_dash", "symbol", "facet_col", "facet_row", "animation_frame")
# Where a name may stand, best first, and on which side of its dot that is.
_AROUND = {"top center": (0, 1), "bottom center": (0, -1), "middle right": (1, 0), "middle left": (-1, 0)}


def bar_chart(
    frame: pd.DataFrame, x: str, y: str, *, dots: Mapping[str, pd.DataFrame] | None = None, **options: Any
) -> go.Figure:
    """A bar for each row of a table, with an interval where there are columns `low` and `high`.

    ```python
    kn.plots.bar_chart(edits.to_frame(), "score", "value", color="method", facet_col="condition", hover_data=["n"])
    ```

    Arguments:
        x, y: columns. Where `y` holds names and `x` numbers, the bars lie.
        dots: name -> a table with the same columns, whose rows are drawn as dots over the bars.
        options: of `plotly.express.bar`: `color`, `facet_col` (a panel for each of its values), `facet_col_wrap`,
            `hover_data`, `labels`, `barmode` ...; `one_scale=False` for panels with scales of their own; `title`,
            `width` and `height` in pixels.
    """
    lying = _is_text(frame, y) and not _is_text(frame, x)
    value, axis = (x, "x") if lying else (y, "y")
    options = {"barmode": "group", **options}
    if {"low", "high"} <= set(frame):
        ends = {f"error_{axis}": frame["high"] - frame[value], f"error_{axis}_minus": frame[value] - frame["low"]}
        frame, options = frame.assign(**ends), options | {end: end for end in ends}
    height = 24 + 26 * max(3, frame[y].nunique()) if lying else _PANEL
    figure, look = _drawn(px.bar, frame, x, y, height, **options)
    if f"error_{axis}" in options:
        figure.update_traces({f"error_{axis}": {"symmetric": False, "thickness": 1.2, "width": 3, "color": NEUTRAL}})
    for name, table in (dots or {}).items():
        more = [column for column in table if column not in frame]
        over, _ = _drawn(px.scatter, table, x, y, height, hover_data=more, **_shared(options))
        over.update_traces(name=plain(name), legendgroup=name, marker={"size": 8, "color": NEUTRAL})
        over.update_traces(marker_line={"width": 1, "color": "#ffffff"}).data[0].showlegend = True
        figure.add_traces(over.data)
    return framed(figure, **look)


def line_chart(frame: pd.DataFrame, x: str, y: str, **options: Any) -> go.Figure:
    """A line for each `color` of a table, with a band where there are columns `low` and `high`.

    ```python
    kn.plots.line_chart(profile.to_frame(), "layer", "effect", color="role", facet_col="kind")
    ```

    `x` and `y` are columns, `options` those of `plotly.express.line`, as in `bar_chart`; `line_group` tells lines of
    one colour apart.

    Raises:
        ValueError: several rows of one line have the same `x`.
    """
    parts = [x, *(options[name] for name in _LINES if isinstance(options.get(name), str))]
    if (twice := frame[frame.duplicated(parts)]).size:
        row = ", ".join(f"{column} {value!r}" for column, value in twice[parts].to_dict("records")[0].items())
        raise ValueError(f"several rows of one line at {row}; give line_group= a column that tells them apart")
    if ends := {"low", "high"} <= set(frame):
        options["custom_data"] = ["low", "high"]
    figure, look = _drawn(px.line, frame, x, y, _PANEL, render_mode="svg", **options)
    figure.update_xaxes(showticklabels=True)  # also above a place without a panel
    for line in figure.data if ends else ():
        low, high = line.customdata[:, :2].astype(float).T
        if np.isfinite(low).all():
            place = {"xaxis": line.xaxis, "yaxis": line.yaxis, "legendgroup": line.legendgroup, "showlegend": False}
            around = {"x": [*line.x, *line.x[::-1]], "y": [*high, *low[::-1]], "mode": "none", "hoverinfo": "skip"}
            figure.add_scatter(**around, **place, fill="toself", fillcolor=line.line.color, opacity=0.18)
    return framed(figure, **look)


def scatter_chart(frame: pd.DataFrame, x: str, y: str, *, join: str = "", **options: Any) -> go.Figure:
    """A dot for each row of a table.

    ```python
    kn.plots.scatter_chart(scan.to_frame(att), "score", "effect", text="neuron")
    ```

    Arguments:
        x, y: columns.
        join: a column: a thin line joins the dots that have the same value, e.g. before and after.
        options: of `plotly.express.scatter`, as in `bar_chart`; `text` is a column of labels beside the dots,
            of which those that would cover another one are shown on hover alone.
    """
    height = 24 + 22 * max(3, frame[y].nunique()) if _is_text(frame, y) else _PANEL
    figure, look = _drawn(px.scatter, frame, x, y, height, **options)
    figure.update_traces(marker_size=5 if len(frame) > 100 else 10)
    if "text" in options and not _is_text(frame, x) and not _is_text(frame, y):
        _part_names(figure, look.get("width") or WIDTH)
    if join:
        whole = frame[frame[join].notna()]
        lines, _ = _drawn(px.line, whole, x, y, height, line_group=join, **_shared(options))
        lines.update_traces(line={"color": NEUTRAL, "width": 1.5}, hoverinfo="skip", hovertemplate=None)
        figure = go.Figure([*lines.data, *figure.data], figure.layout)
    return framed(figure, **look)


def _part_names(figure: go.Figure, width: int) -> None:
    """Names above, below or beside their dots, where they cover no other; one without room is shown on hover alone."""
    dots = [dot for trace in figure.data for dot in zip(trace.x, trace.y, trace.text, strict=True)]
    places = np.array([dot[:2] for dot in dots], dtype=float).reshape(-1, 2)
    drawn = np.isfinite(places).all(axis=1)
    if not drawn.any():
        return
    low, high = places[drawn].min(axis=0), places[drawn].max(axis=0)
    pixels = (places - low) / np.maximum(high - low, 1e-12) * (width - 120, _PANEL)
    named = [n for n, dot in enumerate(dots) if dot[2] and drawn[n]]
    taken = [(pixels[n], np.array([6.0, 6.0])) for n in named]  # middles and half sizes: of the dots, then of names
    where = {}
    for n in named:
        half = np.array([0.5 * CHARACTER * len(dots[n][2]) + 4, 8.0])
        for position, side in _AROUND.items():
            middle = pixels[n] + side * (half + 8)
            if all((abs(middle - other) >= half + size).any() for other, size in taken):
                where[n] = position
                taken.append((middle, half))
                break
    number = count()
    for trace in figure.data:
        own = [next(number) for _ in trace.x]
        trace.hovertext = trace.text if trace.hovertext is None else trace.hovertext
        trace.hovertemplate = trace.hovertemplate.replace("%{text}", "%{hovertext}")
        trace.text = [dots[n][2] if n in where else "" for n in own]
        trace.textposition = [where.get(n, "top center") for n in own]


def beside(figures: Mapping[str, go.Figure], **look: Unpack[Look]) -> go.Figure:
    """Bars that lie and a heatmap with the same rows, say: name of the panel -> figure."""
    parts = list(figures.values())
    figure = make_subplots(cols=len(parts), shared_yaxes=True, subplot_titles=list(map(plain, figures)))
    for number, part in enumerate(parts, start=1):
        figure.add_traces(part.data, rows=1, cols=number)
        figure.update_layout(coloraxis=part.layout.coloraxis)
    figure.update_yaxes(type="category", autorange="reversed")
    plot = max(part.layout.height - part.layout.margin.t - part.layout.margin.b for part in parts)
    return framed(figure, plot=plot, **look)


def _shared(options: dict[str, Any]) -> dict[str, Any]:
    """What is the same for everything in the panels of a figure."""
    return {name: value for name, value in options.items() if name.startswith("facet") or name == "one_scale"}


def _is_text(frame: pd.DataFrame, column: str) -> bool:
    return not pd.api.types.is_numeric_dtype(frame[column])


def _drawn(
    draw: Callable[..., go.Figure], frame: pd.DataFrame, x: str, y: str, panel: int, **options: Any
) -> tuple[go.Figure, Any]:
    """What plotly express draws, with text as it is and names of panels alone; and what `framed` gets."""
    look = {name: options.pop(name) for name in Look.__annotations__ if name in options}
    one_scale, hover, labels = options.pop("one_scale", True), options.pop("hover_data", {}), options.pop("labels", {})
    facet, color = options.get("facet_col"), options.get("color")
    rows = -(-frame[facet].nunique() // options.setdefault("facet_col_wrap", 3)) if facet else 1
    plot = panel * rows + _BETWEEN * (rows - 1)
    table = frame.map(lambda cell: plain(cell) if isinstance(cell, str) else cell)
    names = {column: plain(labels.get(column, column)) for column in frame}
    for column in (facet, color):  # a panel or a colour for each number
        if column and pd.api.types.is_integer_dtype(frame[column]):
            table[column] = [f"{names[column]} {value}" for value in frame[column]]
    orders = {column: table[column].unique() for column in (x, y, facet, color) if column and _is_text(table, column)}
    colours = {name: CATEGORIES[n % len(CATEGORIES)] for n, name in enumerate(orders.get(color, ()))} | COLOURS
    colours |= {plain(name): colour for name, colour in options.pop("color_discrete_map", {}).items()}
    numbers = {c: ":.4g" for c in (x, y) if pd.api.types.is_float_dtype(frame[c])}
    figure = draw(
        table,
        x=x,
        y=y,
        labels=names,
        template="kntools",
        facet_row_spacing=_BETWEEN / plot,
        facet_col_spacing=0.03 if one_scale else 0.06,
        category_orders=orders,
        color_discrete_map=colours,
        hover_data=numbers | (hover if isinstance(hover, dict) else dict.fromkeys(hover, True)),
        **options,
    )
    for note in figure.layout.annotations:
        note.update(text=note.text.removeprefix(f"{names[facet]}="), y=round(note.y, 6))
    figure.layout.annotations = sorted(figure.layout.annotations, key=lambda note: (-note.y, note.x))
    for column, update in ((x, figure.update_xaxes), (y, figure.update_yaxes)):
        if _is_text(frame, column):
            update(type="category")  # "1984" is a name, not a place on a line
        elif not one_scale:
            update(matches=None, showticklabels=True)
    if len(frame) and pd.api.types.is_integer_dtype(frame[x]) and not _is_text(frame, y) and np.ptp(frame[x]) <= 12:
        figure.update_xaxes(dtick=1)  # no half layers
    return figure, {"plot": plot, **look}
