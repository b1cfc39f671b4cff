"""From a figure to cards: in a notebook, a click on a neuron opens its card beside the figure."""

import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

COMMAND = "kntools card {neuron}"


def with_cards(figure: go.Figure, cards: Iterable[Any], *, command: str = COMMAND) -> Any:
    """A figure of neurons in which a click on a cell, bar or dot opens the neuron's card, in Jupyter.

    ```python
    kn.plots.with_cards(att.plot(), kn.neuron_card(model, att.top(10), texts))
    ```

    Arguments:
        figure: one that names neurons: `neuron_heatmap`, `neuron_bars`, `scan_scatter`, `score_scatter`.
        cards: of some of its neurons.
        command: what is shown for a neuron without a card; `{neuron}` is its name.

    Returns:
        A widget (`pip install 'kntools[widgets]'`); without anywidget, the figure as it is.
    """
    found = card_texts(cards)
    if find_spec("anywidget") is None:
        return figure
    return _widget()(figure=figure.to_json(), cards=json.dumps(found), command=command)


def card_texts(cards: Iterable[Any]) -> dict[str, str]:
    """Name of the neuron -> its card as HTML."""
    return {repr(card.neuron): card._repr_html_() for card in cards}


def asset(name: str) -> str:
    """`cards.js` and `cards.css`, which pages and the widget share, and the widget's own `widget.js`."""
    return (files("kntools.plots") / "assets" / name).read_text(encoding="utf-8")


@cache
def _widget() -> Any:
    import anywidget
    import traitlets

    class CardView(anywidget.AnyWidget):
        # Plotly.js is in the widget, for a notebook may have no network.
        _esm = f"if (!globalThis.Plotly) {{ {get_plotlyjs()} }}\n{asset('cards.js')}\n{asset('widget.js')}"
        _css = asset("cards.css")
        figure = traitlets.Unicode().tag(sync=True)
        cards = traitlets.Unicode().tag(sync=True)
        command = traitlets.Unicode().tag(sync=True)

    return CardView
