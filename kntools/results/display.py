"""How a result looks at the prompt and in a notebook: a line that says what it is, and the first rows of a table.

Numbers and long texts look alike everywhere: in tables, titles, pages and at the command line.
"""

from html import escape
from numbers import Integral, Real

import pandas as pd

ROWS = 20  # as many as one sees without scrolling
_WIDTH = 120  # characters of one cell


def text(title: str, frame: pd.DataFrame, *, rows: int = ROWS) -> str:
    table = frame.head(rows).map(_cell).to_string(index=False) if len(frame) else "(no rows)"
    return "\n".join([title, table, *_more(frame, rows)])


def html(title: str, frame: pd.DataFrame, *, rows: int = ROWS) -> str:
    """The same for `_repr_html_`, with every text escaped."""
    table = frame.head(rows).map(_cell).to_html(index=False, border=0)
    return "".join([f"<p>{escape(title)}</p>", table, *(f"<p>{line}</p>" for line in _more(frame, rows))])


def number(value: float | int, sign: str = "") -> str:
    """Three decimals, or three significant digits where that is more: `0.250`, `0.0042`, `3.1e-05`, `1,234`, `1.8e+27`.

    What is not 0 never looks like 0. With `sign="+"`, `+0.250`.
    """
    if not 0.1 <= abs(value) < 1e7:
        return f"{value:{sign if value else ''}.3g}"
    return f"{value:{sign},.{3 if abs(value) < 1000 else 0}f}"


def within(value: float, low: float, high: float) -> str:
    """`0.412 [0.363, 0.458]`."""
    return f"{number(value)} [{number(low)}, {number(high)}]"


def excerpt(text: str, most: int = 80) -> str:
    """A text, without the middle of a long one: where a prompt ends, its answer begins."""
    half = (most - 5) // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def _cell(value: object) -> str:
    if isinstance(value, Real) and not isinstance(value, Integral):
        return number(float(value))
    return excerpt(str(value), _WIDTH)


def _more(frame: pd.DataFrame, rows: int) -> list[str]:
    return [f"... and {len(frame) - rows} more"] if len(frame) > rows else []
