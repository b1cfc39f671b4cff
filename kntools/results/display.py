"""How a result looks as the value of a cell or at the prompt: a line that says what it is, then its first rows."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from numbers import Integral, Real

import pandas as pd

ROWS = 20  # as many as one sees without scrolling
_WIDTH = 120  # characters of one cell


def as_html(title: str, rows: Sequence[Sequence[object]], columns: Sequence[str] = (), *, limit: int = ROWS) -> str:
    """What `_repr_html_` returns: a line, and a table of the first rows, with every text escaped.

    ```python
    as_html("Leading neurons", [("L24.N1005", 0.21)], ["neuron", "score"])
    ```

    Arguments:
        rows: one value per column. Texts stand on the left, long ones cut; numbers on the right, with four digits.
        columns: their names, or nothing for a table that explains itself.
        limit: how many rows are shown; a line tells how many are not.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = [f"<tr>{head}</tr>"] if columns else []
    body += ["<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows[:limit]]
    more = f"<p>{_more(rows, limit)}</p>" if len(rows) > limit else ""
    return f"<p>{escape(title)}</p><table>{''.join(body)}</table>{more}"


def frame_html(title: str, frame: pd.DataFrame, *, limit: int = ROWS) -> str:
    """`as_html` of a table of pandas."""
    return as_html(title, list(frame.itertuples(index=False)), [str(name) for name in frame.columns], limit=limit)


def frame_text(frame: pd.DataFrame, *, limit: int = ROWS) -> str:
    """The first rows of a table as text."""
    if frame.empty:
        return "(no rows)"
    text = frame.head(limit).to_string(index=False, float_format=_digits)
    return f"{text}\n{_more(frame, limit)}" if len(frame) > limit else text


def _cell(value: object) -> str:
    if isinstance(value, Real) and not isinstance(value, Integral):
        return f"<td>{_digits(value)}</td>"
    text = str(value)
    kept = text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."
    left = "" if isinstance(value, Real) else " style='text-align:left'"
    return f"<td{left}>{escape(kept)}</td>"


def _digits(value: Real) -> str:
    return f"{value:.4g}"


def _more(rows: Sequence[object] | pd.DataFrame, limit: int) -> str:
    return f"... and {len(rows) - limit} more"
