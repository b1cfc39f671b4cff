"""Heatmaps of any table, `[layer x]` or other: cells with names, and colours that are symmetric around 0."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kntools.plots.scores import finite
from kntools.plots.theme import CATEGORIES, Look, diverging, faded, framed, plain
from kntools.results.display import number

_FEW = 24  # labels that all have room; left to itself, plotly would put some between them


def heatmap(
    values: Any,
    *,
    rows: Iterable[Any] | None = None,
    columns: Iterable[Any] | None = None,
    x: str = "",
    y: str = "layer",
    unit: str = "",
    say: bool = False,
    power: float = 1.0,
    limits: Sequence[float] | None = None,
    **look: Unpack[Look],
) -> go.Figure:
    """A table as cells, its first row on top: red above 0, blue below, and no colour at 0. A cell of nan is empty.

    ```python
    kn.plots.heatmap(effects, x="head", unit="change of the logit")                  # [layer head]
    kn.plots.heatmap({"hidden state": a, "MLP output": b}, x="position")             # side by side, on one scale
    ```

    Arguments:
        values: a tensor, array or lists `[row column]`; a frame, whose index and columns are the labels; or a dict of
            these.
        rows, columns: labels; numbers from 0 if there are none.
        x, y, unit: titles of the axes, and the unit of the values.
        say: write each value into its cell, instead of a colour bar.
        power: the colour's strength is `|value| ** power`; below 1, small values stay visible.
        limits: the values at both ends of the colours; plus and minus the highest absolute value if there are none.
    """
    given = values if isinstance(values, Mapping) else {"": values}
    tables = [_table(table, rows, columns) for table in given.values()]
    names = list(map(plain, given)) if len(tables) > 1 else None
    figure = make_subplots(cols=len(tables), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=names)
    figure.update_xaxes(title_text=plain(x)).update_yaxes(title_text=plain(y), col=1)
    hover = f"{plain(y)} %{{y}}<br>{plain(x)} %{{x}}<br>%{{customdata}}<extra></extra>"
    sign = "" if limits else "+"
    for panel, table in enumerate(tables, start=1):
        (across, x_axis), (down, y_axis) = _axis(table.columns, len(tables)), _axis(table.index)
        z, at = table.to_numpy(), {"row": 1, "col": panel}
        exact = [["no value" if np.isnan(value) else f"{value:{sign}.4g}" for value in row] for row in z.tolist()]
        cells = go.Heatmap(z=z, x=across, y=down, customdata=exact, hovertemplate=hover, coloraxis="coloraxis")
        figure.add_trace(cells.update(xgap=1, ygap=1), **at)
        figure.update_xaxes(x_axis, **at).update_yaxes({**y_axis, "range": y_axis["range"][::-1]}, **at)
        if say:
            # Text of its own trace: the heatmap's own is coloured as if the background were always white.
            words = ["" if np.isnan(value) else number(value, sign) for value in z.ravel().tolist()]
            text = go.Scatter(x=across * len(down), y=[row for row in down for _ in across], text=words, mode="text")
            figure.add_trace(text.update(textfont_size=11, hoverinfo="skip", showlegend=False), **at)
    largest = max(float(np.nan_to_num(np.abs(table.to_numpy())).max()) for table in tables)
    low, high = limits or (-(largest or 1.0), largest or 1.0)
    if not largest:  # nothing to see needs a word
        nothing = "no values" if all(table.isna().all(axis=None) for table in tables) else "all 0"
        unit = ", ".join(filter(None, [unit, nothing]))
    strongest = 0.75 if say else 1.0  # text stays readable
    one_sided = [(0, faded(CATEGORIES[0], 0.0)), (1, faded(CATEGORIES[0], strongest))]
    bar = {"title": {"text": plain(unit), "side": "right"}, "thickness": 14, "outlinewidth": 0, "ticksuffix": " "}
    scale = {"colorscale": diverging(power, strongest) if low < 0 else one_sided, "cmin": low, "cmax": high}
    figure.update_layout(coloraxis={**scale, "showscale": not say, "colorbar": bar})
    return framed(figure, **look)


def _table(values: Any, rows: Iterable[Any] | None, columns: Iterable[Any] | None) -> pd.DataFrame:
    given = values if isinstance(values, pd.DataFrame) else finite(values, "values", (None, None), gaps=True)
    table = pd.DataFrame(given)
    for axis, (what, labels) in enumerate({"rows": rows, "columns": columns}.items()):
        if labels is not None:
            listed, count = list(labels), table.shape[axis]
            if isinstance(labels, str) or len(listed) != count:
                n = len(listed)
                raise ValueError(f"{what}= has {n} labels, the values have {count} {what}; give a list of {count}")
            table = table.set_axis(listed, axis=axis)
    finite(table.to_numpy(copy=True), "values", gaps=True)
    return table


def _axis(labels: Iterable[Any], panels: int = 1) -> tuple[list[Any], dict[str, Any]]:
    """Where cells are, and an axis on which all are equally wide and equal labels stand apart."""
    names = [plain(label) if isinstance(label, str) else label for label in labels]
    places = list(range(len(names)))
    axis = {"showgrid": False, "zeroline": False, "range": [-0.5, len(names) - 0.5]}
    axis |= {"showline": True, "mirror": True}  # cells of 0 have no colour
    if names == places:
        return names, axis | {"tickformat": "d", "dtick": 1 if len(names) * panels <= _FEW else None}
    if len(set(names)) == len(names):
        return names, axis | {"type": "category"}
    return places, axis | {"tickvals": places, "ticktext": names}
