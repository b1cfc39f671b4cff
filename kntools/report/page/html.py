"""A page and its blocks as HTML."""

from __future__ import annotations

import json
import math
import re
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from plotly.offline import get_plotlyjs

from kntools.files import write as write_file
from kntools.plots.theme import DARK, LIGHT
from kntools.report.page.blocks import Block, Chart, Command, Links, Notes, Page, Table, Text

# What can be saved, and by which name a button says so.
_PICTURES = {"png": "PNG", "svg": "SVG"}


def write(path: str | Path, page: Page) -> Path:
    """Write a page, and the files that its tables name, into the folder of `path`."""
    path = Path(path)
    for section in page.sections:
        for block in section.blocks:
            if isinstance(block, Table):
                block.write(path.parent)
    return write_file(path, render(page))


def render(page: Page) -> str:
    """The page as one string of HTML.

    Raises:
        ValueError: two sections with the same title (their links would lead to the same place), or a link to none.
    """
    ids = [_slug(s.title) for s in page.sections]
    if len(set(ids)) < len(ids):
        raise ValueError(f"two sections have the same title: {[s.title for s in page.sections]}; rename one")
    links = "".join(f'<li><a href="#{i}">{escape(s.title)}</a></li>' for i, s in zip(ids, page.sections, strict=True))
    parts = [
        f'<section aria-labelledby="{i}"><h2 id="{i}">{escape(s.title)}</h2>'
        + "".join(_block(b, page, f"{i}-{n}") for n, b in enumerate(s.blocks))
        + "</section>"
        for i, s in zip(ids, page.sections, strict=True)
    ]
    facts = _pairs(page.facts)
    fill = {
        "TITLE": escape(page.title),
        "STYLE": _asset("page.css"),
        "LEAD": f'<p class="lead">{_inline(page.lead)}</p>' if page.lead else "",
        "FACTS": f'<dl class="facts">{facts}</dl>' if facts else "",
        "CONTENTS": links,
        "BODY": "\n".join(parts),
        "TEMPLATES": _script_json({"light": _bare(LIGHT), "dark": _bare(DARK)}),
        "PLOTLY": get_plotlyjs(),
        "SCRIPT": _asset("page.js"),
    }
    # One pass: nothing that is filled in is searched for further places to fill.
    return re.sub(r"%%([A-Z]+)%%", lambda m: fill[m.group(1)], _asset("page.html"))


def _block(block: Block, page: Page, name: str) -> str:
    if isinstance(block, Text):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Notes):
        return f'<dl class="notes">{_pairs(block.rows)}</dl>'
    if isinstance(block, Command):
        return (
            f'<div class="command"><pre tabindex="0"><code>{escape(block.text, quote=False)}</code></pre>'
            '<button type="button" data-copy hidden>Copy</button></div>'
        )
    if isinstance(block, Links):
        return f'<ul class="links">{"".join(_link(title, text, page) for title, text in block.rows)}</ul>'
    if isinstance(block, Chart):
        return _chart(block, page.source, name)
    return _table(block, name)


def _pairs(rows: Any) -> str:
    return "".join(f"<div><dt>{escape(k)}</dt><dd>{_inline(v)}</dd></div>" for k, v in rows)


def _link(title: str, text: str, page: Page) -> str:
    if title not in (s.title for s in page.sections):
        raise ValueError(f"no section {title!r} to link to; there are {[s.title for s in page.sections]}")
    return f'<li><a href="#{_slug(title)}">{escape(title)}</a> {_inline(text)}</li>'


def _chart(chart: Chart, source: str, name: str) -> str:
    spec = json.loads(chart.figure.to_json())
    layout = spec["layout"]
    layout.pop("template", None)  # the page's own, light or dark
    own = (layout.pop("title", None) or {}).get("text", "").replace("<br>", " ")
    title = escape(chart.title, quote=False) if chart.title else own
    height = int(layout.get("height") or 450)
    n = f" n = {chart.n}." if chart.n else ""
    plot = f'<div class="plot" id="{name}-plot" style="min-height:{height}px"></div>'
    if chart.min_width:
        plot = (
            f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{name}-title">'
            f'<div style="min-width:{chart.min_width}px">{plot}</div></div>'
        )
    return (
        f'<figure id="{name}" aria-labelledby="{name}-title">'
        f'<h3 id="{name}-title">{title}</h3>{plot}'
        f'<script type="application/json" data-plot="{name}-plot">{_script_json(spec)}</script>'
        f"<figcaption>{_inline(chart.caption)}{escape(n)}"
        + (f' <span class="source">{_inline(source)}</span>' if source else "")
        + f"</figcaption>{_buttons(name, chart.name or name)}</figure>"
    )


def _buttons(name: str, file: str) -> str:
    """Without scripts there is nothing to save, so the script shows them."""
    buttons = "".join(
        f'<button type="button" data-save="{format}" data-of="{name}" data-file="{escape(file)}" '
        f'aria-label="Save as {label}" aria-describedby="{name}-title" hidden>{label}</button>'
        for format, label in _PICTURES.items()
    )
    return f'<div class="save">{buttons}</div>'


def _table(table: Table, name: str) -> str:
    head = "".join(_head(table.frame[c]) for c in table.frame.columns)
    rows = "".join(
        "<tr>" + "".join(_cell(v, table.digits) for v in row) + "</tr>"
        for row in table.frame.itertuples(index=False, name=None)
    )
    caption = _inline(table.caption)
    files = [escape(file) for file in (table.csv, table.json) if file]
    links = "".join(f' <a href="{file}" download>{file}</a>' for file in files)
    # A region that scrolls must be reachable by keyboard.
    body = (
        f'<p class="caption" id="{name}-caption">{caption}{links}</p>'
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{name}-caption">'
        f'<table aria-labelledby="{name}-caption">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    if not table.folded:
        return body
    return f"<details><summary>Table: {caption}</summary>{body}</details>"


def _head(column: pd.Series) -> str:
    """Names of numbers stand on the right, as the numbers do."""
    right = is_numeric_dtype(column) and not is_bool_dtype(column)
    return f'<th scope="col"{" class=number" if right else ""}>{escape(str(column.name))}</th>'


def _cell(value: Any, digits: int) -> str:
    if isinstance(value, bool):
        return f"<td>{'yes' if value else 'no'}</td>"
    if isinstance(value, float):
        return f'<td class="number">{_decimal(value, digits)}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{escape(str(value))}</td>"


def _decimal(value: float, digits: int) -> str:
    """In so many digits; what would look like 0 and is not, by its exponent."""
    if math.isnan(value):
        return ""
    if 0 < abs(value) < 0.5 * 10**-digits:
        return f"{value:.1e}"
    return f"{value:.{digits}f}"


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"


def _bare(template: Any) -> Any:
    return template.to_plotly_json()


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return (files("kntools") / "report" / "assets" / name).read_text(encoding="utf-8")
