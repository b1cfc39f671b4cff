"""How a result looks at the prompt and in a notebook: a line that says what it is, and the first rows of a table."""

from __future__ import annotations

from html import escape
from numbers import Integral, Real

import pandas as pd

ROWS = 20  # as many as one sees without scrolling
_WIDTH = 120  # characters of one cell


def text(title: str, frame: pd.DataFrame, *, rows: int = ROWS) -> str:
    """What `__repr__` returns: numbers with four digits, long texts cut."""
    table = frame.head(rows).map(_cell).to_string(index=False) if len(frame) else "(no rows)"
    return "\n".join([title, table, *_more(frame, rows)])


def html(title: str, frame: pd.DataFrame, *, rows: int = ROWS) -> str:
    """The same for `_repr_html_`, with every text escaped."""
    table = frame.head(rows).map(_cell).to_html(index=False, border=0)
    return "".join([f"<p>{escape(title)}</p>", table, *(f"<p>{line}</p>" for line in _more(frame, rows))])


def _cell(value: object) -> str:
    if isinstance(value, Real) and not isinstance(value, Integral):
        return f"{value:.4g}"
    written = str(value)
    return written if len(written) <= _WIDTH else written[: _WIDTH - 3] + "..."


def _more(frame: pd.DataFrame, rows: int) -> list[str]:
    return [f"... and {len(frame) - rows} more"] if len(frame) > rows else []
