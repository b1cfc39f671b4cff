"""One HTML file with figures and tables that opens anywhere: no network, no other file, no build step.

```python
page.write("out/index.html", page.Page(
    title="Where a model keeps a fact",
    lead="Attribution of SmolLM2-135M.",
    source="Model: smollm2-135m. Made by `python examples/demo.py`.",
    sections=[page.Section("Scores", [page.Text("..."), page.Chart(fig, "What one sees.", n="4 prompts")])],
))
```

plotly.js is in the file once, however many figures there are. The page follows the reader's light or dark setting and
the width of the window; every figure has a caption that says what it was made from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from plotly.offline import get_plotlyjs

from kntools.plots.theme import DARK, LIGHT


@dataclass(frozen=True)
class Text:
    """A paragraph. Backticks set code; everything else is shown as it is written."""

    text: str


@dataclass(frozen=True)
class Chart:
    """A plotly figure under a heading, with what it shows and of how many."""

    figure: Any
    caption: str
    n: str = ""
    title: str = ""  # the figure's own title, if empty


@dataclass(frozen=True)
class Table:
    """A data frame. `csv` is the name of a file beside the page with the same numbers."""

    frame: pd.DataFrame
    caption: str
    csv: str = ""
    digits: int = 3
    folded: bool = False  # behind a line to click on


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading, and an entry in its table of contents."""

    title: str
    blocks: Sequence[Text | Chart | Table]


@dataclass(frozen=True)
class Page:
    """Everything on a page. `source` (model, settings, command) is repeated under every figure."""

    title: str
    sections: Sequence[Section]
    lead: str = ""
    source: str = ""
    facts: Sequence[tuple[str, str]] = field(default=())  # name and value, at the top


def write(path: str | Path, page: Page) -> Path:
    """Write a page, and a CSV file for each table that names one, into the folder of `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for section in page.sections:
        for block in section.blocks:
            if isinstance(block, Table) and block.csv:
                block.frame.to_csv(path.parent / block.csv, index=False)
    path.write_text(render(page), encoding="utf-8", newline="\n")
    return path


def render(page: Page) -> str:
    """The page as one string of HTML.

    Raises:
        ValueError: two sections with the same title (their links would lead to the same place).
    """
    ids = [_slug(s.title) for s in page.sections]
    if len(set(ids)) < len(ids):
        raise ValueError(f"two sections have the same title: {[s.title for s in page.sections]}; rename one")
    links = "".join(f'<li><a href="#{i}">{escape(s.title)}</a></li>' for i, s in zip(ids, page.sections, strict=True))
    parts = [
        f'<section aria-labelledby="{i}"><h2 id="{i}">{escape(s.title)}</h2>'
        + "".join(_block(b, page.source, f"{i}-{n}") for n, b in enumerate(s.blocks))
        + "</section>"
        for i, s in zip(ids, page.sections, strict=True)
    ]
    facts = "".join(f"<div><dt>{escape(k)}</dt><dd>{_inline(v)}</dd></div>" for k, v in page.facts)
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


def _block(block: Text | Chart | Table, source: str, name: str) -> str:
    if isinstance(block, Text):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Chart):
        return _chart(block, source, name)
    return _table(block, name)


def _chart(chart: Chart, source: str, name: str) -> str:
    spec = json.loads(chart.figure.to_json())
    layout = spec["layout"]
    layout.pop("template", None)  # the page's own, light or dark
    own = (layout.pop("title", None) or {}).get("text", "").replace("<br>", " ")
    title = escape(chart.title, quote=False) if chart.title else own
    height = int(layout.get("height") or 450)
    n = f" n = {chart.n}." if chart.n else ""
    return (
        f'<figure id="{name}" aria-labelledby="{name}-title">'
        f'<h3 id="{name}-title">{title}</h3>'
        f'<div class="plot" id="{name}-plot" style="min-height:{height}px"></div>'
        f'<script type="application/json" data-plot="{name}-plot">{_script_json(spec)}</script>'
        f"<figcaption>{_inline(chart.caption)}{escape(n)}"
        + (f' <span class="source">{_inline(source)}</span>' if source else "")
        + "</figcaption></figure>"
    )


def _table(table: Table, name: str) -> str:
    head = "".join(f'<th scope="col">{escape(str(c))}</th>' for c in table.frame.columns)
    rows = "".join(
        "<tr>" + "".join(_cell(v, table.digits) for v in row) + "</tr>"
        for row in table.frame.itertuples(index=False, name=None)
    )
    caption = _inline(table.caption)
    link = f' <a href="{escape(table.csv)}" download>{escape(table.csv)}</a>' if table.csv else ""
    # A region that scrolls must be reachable by keyboard.
    body = (
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{name}-caption">'
        f'<table><caption id="{name}-caption">{caption}{link}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    if not table.folded:
        return body
    return f"<details><summary>Table: {caption}</summary>{body}</details>"


def _cell(value: Any, digits: int) -> str:
    if isinstance(value, bool):
        return f"<td>{'yes' if value else 'no'}</td>"
    if isinstance(value, float):
        return f'<td class="number">{value:.{digits}f}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{escape(str(value))}</td>"


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
    return (files("kntools") / "assets" / "page" / name).read_text(encoding="utf-8")
