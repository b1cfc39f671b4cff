"""How all figures look: fonts, colours, a light and a dark template, and where title, legend and panels stand.

Colours are Okabe and Ito's where groups are told apart, and red against blue where a sign matters; both can be told
apart with any kind of colour vision. Nothing but the templates depends on the background, so a figure becomes dark
with `fig.update_layout(template="kntools_dark")`.
"""

import re
import textwrap
from html import escape, unescape
from typing import Any, TypedDict, Unpack

import plotly.graph_objects as go
import plotly.io as pio
from plotly.colors import sample_colorscale
from plotly.exceptions import PlotlyError

from kntools.models.names import check_name

#: For groups, in this order.
CATEGORIES = ("#0f7fc4", "#e08a00", "#0a9b73", "#c9629b", "#8d7ae6", "#d1541f", "#4fa8d8", "#9a8c1f")
POSITIVE = "#db3a24"
NEGATIVE = "#2878dc"
NEUTRAL = "#8a8f98"
MARK = "#8d6ae6"
#: Groups that have the same colour in every figure.
COLOURS = {
    "linguistic": CATEGORIES[0],
    "factual": CATEGORIES[1],
    "before": NEUTRAL,
    "after": CATEGORIES[0],
    "knowledge neurons": CATEGORIES[0],
    "random neurons": NEUTRAL,
    "significant": POSITIVE,
    "not significant": NEUTRAL,
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_STOPS = 16  # per sign: enough for a smooth power law
# In pixels: a figure without a width of its own, what is above the title, lines of title and legend, names of panels,
# what is below the axes, and a character of the title, of the names of panels and of the legend.
WIDTH, _ABOVE, _LINE, _LEGEND, _PANELS, _BOTTOM = 800, 18, 21, 20, 26, 56
_TITLE_CHARACTER, _PANEL_CHARACTER, CHARACTER = 9, 7.5, 6.3


def diverging(power: float, strongest: float) -> list[tuple[float, str]]:
    """From blue over nothing (whatever the background is) to red, for values that are symmetric around 0.

    The colour's strength is `|value| ** power`, and `strongest` at both ends.
    """
    levels = [i / _STOPS for i in range(_STOPS + 1)]
    below = [(0.5 - 0.5 * x, faded(NEGATIVE, strongest * x**power)) for x in reversed(levels)]
    above = [(0.5 + 0.5 * x, faded(POSITIVE, strongest * x**power)) for x in levels]
    return below + above


def faded(colour: str, strength: float) -> str:
    """A colour `#rrggbb` that lets the background through."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{strength:.4f})"


def _template(paper: str, ink: str, grid: str, axis: str) -> go.layout.Template:
    lines = {
        "gridcolor": grid,
        "zerolinecolor": axis,
        "linecolor": axis,
        "tickcolor": axis,
        "ticks": "outside",
        "ticklen": 4,
        "automargin": True,
        "exponentformat": "power",  # and not "100µ"
        "title": {"standoff": 10},
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": ink},
            "title": {"x": 0.015, "xref": "container", "xanchor": "left", "font": {"size": 16}},
            "paper_bgcolor": paper,
            "plot_bgcolor": paper,
            "colorway": CATEGORIES,
            "hoverlabel": {"font": {"family": FONT, "size": 13}, "align": "left"},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
            "margin": {"l": 60, "r": 20, "t": 72, "b": 56},
            "bargap": 0.15,
            "coloraxis": {"colorbar": {"exponentformat": "power"}},
            "xaxis": {**lines, "autotickangles": [0, -35, -90]},  # long names do not leave the figure
            "yaxis": lines,
        }
    )


LIGHT = _template(paper="#ffffff", ink="#1c2127", grid="#e4e7eb", axis="#9aa1ab")
DARK = _template(paper="#15181d", ink="#e6e8eb", grid="#2c323a", axis="#6b737d")
pio.templates["kntools"] = LIGHT
pio.templates["kntools_dark"] = DARK


class Look(TypedDict, total=False):
    """What every figure takes: a title of your own, sizes in pixels, and any colour scale of plotly's."""

    title: str | None
    width: int | None
    height: int | None
    colorscale: Any


def framed(figure: go.Figure, *, plot: int = 0, **look: Unpack[Look]) -> go.Figure:
    """The common look, for a figure that has all its traces: title, legend and names of panels, one below the other.

    Arguments:
        plot: pixels between the margins, where `look` has no height; that of a heatmap depends on its rows.
        look: `colorscale` colours the cells of a heatmap by their values; elsewhere each group has one colour of it.
    """
    for name in look:
        check_name("option of a figure", name, list(Look.__annotations__))
    if look.get("colorscale") is not None:
        _recolour(figure, look["colorscale"])
    width = look.get("width") or WIDTH
    how: dict[str, Any] = {"break_on_hyphens": False, "max_lines": 3, "placeholder": " ..."}
    lines = textwrap.wrap(look.get("title") or "", width // _TITLE_CHARACTER, break_long_words=False, **how)
    names = [t.name for t in figure.data if t.name and t.showlegend is not False and t.type != "heatmap"]
    names += [shape.name for shape in figure.layout.shapes if shape.showlegend]
    notes = [note for note in figure.layout.annotations if note.yref == "paper"]
    room = max(8, int((width - 120) / _PANEL_CHARACTER / len({note.x for note in notes}))) if notes else 0
    wrapper = textwrap.TextWrapper(room, **how)
    wrapper.wordsep_simple_re = re.compile(r"(\s+|(?<=_)(?!\s))")  # names of paradigms are cut behind an underscore
    parts = [wrapper.wrap(unescape(note.text.replace("<br>", " "))) for note in notes]
    for note, part in zip(notes, parts, strict=True):
        note.text = "<br>".join(map(plain, part))
    panels = max((_PANELS + _LINE * (len(part) - 1) for part in parts), default=0)
    top = _ABOVE + _LINE * len(lines) + 14 + _LEGEND * _rows(names, width - 120) + panels
    if not plot:
        rows, labels = len(figure.data[0].y), figure.layout.xaxis.ticktext or figure.data[0].x
        plot = max(200, rows * min(30, max(15, 400 // rows)))  # few rows have room, many are thin
        plot += 5 * max(len(str(label)) for label in labels)  # which stand aslant or upright if they are long
    height = look.get("height") or top + plot + _BOTTOM
    return figure.update_annotations(font_size=14).update_layout(
        template="kntools",
        width=look.get("width"),
        height=height,
        margin={"t": top, "b": _BOTTOM},
        showlegend=bool(names),
        title={"text": "<br>".join(map(plain, lines)), "yref": "container", "y": 1 - _ABOVE / height, "yanchor": "top"},
        legend={"y": 1 + (4 + panels) / max(1, height - top - _BOTTOM), "title": {"text": ""}},
    )


def _recolour(figure: go.Figure, colorscale: Any) -> None:
    if any(trace.type == "heatmap" for trace in figure.data):
        figure.update_layout(coloraxis_colorscale=colorscale)
        return
    drawn = [t for t in figure.data if t.hoverinfo != "skip" or _is_band(t)]  # and not the lines that join dots
    names = list(dict.fromkeys(trace.legendgroup or trace.name for trace in drawn))
    colours = dict(zip(names, sampled(colorscale, len(names)), strict=True))
    for trace in drawn:
        colour = colours[trace.legendgroup or trace.name]
        if _is_band(trace):
            trace.fillcolor = colour
        else:
            trace.update({"line" if trace.type == "scatter" and trace.mode == "lines" else "marker": {"color": colour}})


def _is_band(trace: Any) -> bool:
    return trace.type == "scatter" and trace.fill == "toself"


def sampled(colorscale: Any, count: int) -> list[str]:
    """So many colours of a scale, from its first to its last; a single one from its middle."""
    at = [i / (count - 1) for i in range(count)] if count > 1 else [0.5]
    scale = [list(stop) for stop in go.layout.Coloraxis(colorscale=colorscale).colorscale]
    try:
        return sample_colorscale(scale, at)
    except (TypeError, PlotlyError):
        raise ValueError(f"colorscale={colorscale!r}; write its colours as '#rrggbb' or 'rgb(r, g, b)'") from None


def _rows(names: list[str], width: int) -> int:
    """How many lines a legend takes: one where all names fit, else columns as wide as the longest name."""
    widths = [40 + CHARACTER * len(name) for name in names]
    return -(-len(names) // max(1, int(width // max(widths)))) if sum(widths) > width else int(bool(names))


def plain(text: Any) -> str:
    """Text without markup, for titles, labels and hover boxes (plotly reads some HTML)."""
    return escape(str(text), quote=False)
