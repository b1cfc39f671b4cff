"""How all figures look: fonts, colours, and a light and a dark template.

Colours are Okabe and Ito's where things are told apart, and red against blue where a sign matters; both can be told
apart with any kind of colour vision. Nothing but the templates depends on the background, so a figure becomes dark
with `fig.update_layout(template="kntools_dark")`.
"""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go
import plotly.io as pio

#: For groups, in this order.
CATEGORIES = ("#0f7fc4", "#e08a00", "#0a9b73", "#c9629b", "#8d7ae6", "#d1541f", "#4fa8d8", "#9a8c1f")
POSITIVE = "#db3a24"
NEGATIVE = "#2878dc"
NEUTRAL = "#8a8f98"
MARK = "#8d6ae6"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_STOPS = 16  # per sign: enough for a smooth power law
# In pixels: a line of the title and what is above it, the legend, the names of panels, and what is below the axes.
_LINE, _ABOVE, _LEGEND, _PANELS, _BOTTOM = 21, 18, 34, 26, 56


def diverging(power: float = 1.0, strongest: float = 1.0) -> list[tuple[float, str]]:
    """A colour scale from blue over nothing to red, for values that are symmetric around 0.

    The centre is transparent: it shows the background, whatever that is.

    Arguments:
        power: the colour's strength is `|value| ** power`; below 1, small values stay visible.
        strongest: the strength at both ends; below 1 where text has to stay readable on it.
    """
    levels = [i / _STOPS for i in range(_STOPS + 1)]
    below = [(0.5 - 0.5 * x, _faded(NEGATIVE, strongest * x**power)) for x in reversed(levels)]
    above = [(0.5 + 0.5 * x, _faded(POSITIVE, strongest * x**power)) for x in levels]
    return below + above


def _faded(colour: str, strength: float) -> str:
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
            "title": {"x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 16}},
            "paper_bgcolor": paper,
            "plot_bgcolor": paper,
            "colorway": CATEGORIES,
            "hoverlabel": {"font": {"family": FONT, "size": 13}, "align": "left"},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
            "margin": {"l": 60, "r": 20, "t": 72, "b": 56},
            "bargap": 0.15,
            "coloraxis": {"colorbar": {"exponentformat": "power"}},
            "xaxis": lines,
            "yaxis": lines,
        }
    )


LIGHT = _template(paper="#ffffff", ink="#1c2127", grid="#e4e7eb", axis="#9aa1ab")
DARK = _template(paper="#15181d", ink="#e6e8eb", grid="#2c323a", axis="#6b737d")
pio.templates["kntools"] = LIGHT
pio.templates["kntools_dark"] = DARK


def new_figure(title: str, *, height: int, x: str, y: str) -> go.Figure:
    """An empty figure in the common look. Texts are plain: `<` and `&` are shown as they are."""
    figure = framed(go.Figure(), title, height=height)
    return figure.update_layout(xaxis_title_text=plain(x), yaxis_title_text=plain(y))


def framed(figure: go.Figure, title: str, *, height: int, panels: bool = False) -> go.Figure:
    """The common look: title, legend and (with `panels`) the names of panels, each below the one before."""
    text = wrapped(title)
    names = _PANELS if panels else 0
    top = _ABOVE + _LINE * (1 + text.count("<br>")) + _LEGEND + names
    return figure.update_layout(
        template="kntools",
        height=height,
        margin={"t": top, "b": _BOTTOM},
        title={"text": text, "yref": "container", "y": 1 - _ABOVE / height, "yanchor": "top"},
        legend={"y": 1 + (4 + names) / (height - top - _BOTTOM)},
    )


def plain(text: str) -> str:
    """Text without markup, for titles, labels and hover boxes (plotly reads some HTML)."""
    return escape(text, quote=False)


def wrapped(text: str, width: int = 84) -> str:
    """A title in lines of at most `width` characters, at most three of them."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    shown = lines if len(lines) <= 3 else [*lines[:2], lines[2] + " ..."]
    return "<br>".join(map(plain, shown))
