"""One HTML file with figures and tables that opens anywhere: no network, no other file, no build step.

```python
page.write("out/index.html", page.Page(
    title="Where a model keeps a fact",
    lead="Attribution of SmolLM2-135M.",
    source="Model: smollm2-135m. Made by `python my_script.py`.",
    sections=[page.Section("Scores", [page.Text("..."), page.Chart(figure, "What one sees.", n="4 prompts")])],
))
```

Texts are shown as they are written; backticks set code. plotly.js is in the file once. The page follows the reader's
light or dark setting, and a button changes it; figures have buttons that save them as PNG and SVG.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from plotly.offline import get_plotlyjs

from kntools import files
from kntools.attribution.neuron_card_result import NeuronCard
from kntools.plots.card_view import COMMAND, asset, card_texts
from kntools.plots.theme import DARK, LIGHT
from kntools.results.display import number
from kntools.results.encoding import without_nan


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Notes:
    """Names and what there is to say about each: question, claim, finding."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Command:
    """A command to type, with a button that copies it."""

    text: str


@dataclass(frozen=True)
class Links:
    """Lines that lead to sections: the title of a section, and what to say about it."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Chart:
    """A plotly figure under a heading, with what it shows and of how many, and buttons that save it as a picture."""

    figure: Any
    caption: str
    n: str = ""
    title: str = ""  # the figure's own title, if empty
    name: str = ""  # of the files that the buttons save; made from the section's title, if empty
    min_width: int = 0  # in pixels; on a narrower screen the figure is drawn smaller

    @property
    def heading(self) -> Markup:
        """The title, as HTML: a figure's own title may have markup."""
        own = (self.figure.layout.title.text or "").replace("<br>", " ")
        return escape(self.title) if self.title else Markup(own)

    @property
    def height(self) -> int:
        return int(self.figure.layout.height or 450)

    @property
    def spec(self) -> Markup:
        """The figure without its title, which is a heading, and in the page's own template, light or dark."""
        spec = json.loads(self.figure.to_json())
        spec["layout"] = {k: v for k, v in spec["layout"].items() if k not in ("template", "title")}
        return _script_json(spec)


@dataclass(frozen=True)
class PageTable:
    """A data frame. `csv` and `json` are names of files beside the page with the same numbers, in all digits."""

    frame: pd.DataFrame
    caption: str
    csv: str = ""
    json: str = ""
    folded: bool = False  # behind a line to click on

    @property
    def files(self) -> dict[str, str]:
        """Name of a file -> its content; not-a-number is `null` in JSON."""
        found = {self.csv: self.frame.to_csv(index=False)} if self.csv else {}
        if self.json:
            rows = without_nan(self.frame)
            found[self.json] = json.dumps(rows, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        return found

    @property
    def head(self) -> list[tuple[str, bool]]:
        """Names of columns, and whether they stand on the right, as numbers do."""
        columns = [self.frame[name] for name in self.frame]
        return [(str(c.name), is_numeric_dtype(c) and not is_bool_dtype(c)) for c in columns]

    @property
    def cells(self) -> list[list[tuple[str, bool]]]:
        rows = self.frame.itertuples(index=False, name=None)
        return [[_cell(value) for value in row] for row in rows]


Block = Text | Notes | Command | Links | Chart | PageTable


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading, and an entry in its table of contents."""

    title: str
    blocks: Sequence[Block]

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"


@dataclass(frozen=True)
class Page:
    """Everything on a page. `source` (model, settings, command) is repeated under every figure."""

    title: str
    sections: Sequence[Section]
    lead: str = ""
    source: str = ""
    facts: Sequence[tuple[str, str]] = ()  # name and value, at the top
    warning: str = ""  # what the page is not
    cards: Sequence[NeuronCard] = ()  # a click on one of these neurons in a figure opens its card
    card_command: str = COMMAND  # what to type for the card of another {neuron}

    @property
    def files(self) -> dict[str, str]:
        """Those of all its tables."""
        tables = [block for section in self.sections for block in section.blocks if isinstance(block, PageTable)]
        return {name: text for table in tables for name, text in table.files.items()}


def write(path: str | Path, page: Page) -> Path:
    """Write a page, and the files that its tables name, into the folder of `path`. Each appears whole or not at all."""
    path = Path(path)
    for name, text in page.files.items():
        files.write(path.parent / name, text)
    return files.write(path, render(page))


def render(page: Page) -> str:
    """The page as one string of HTML; every link must lead to one section."""
    titles, slugs = [s.title for s in page.sections], {s.title: s.slug for s in page.sections}
    if len(set(slugs.values())) < len(titles):
        raise ValueError(f"two sections have the same title: {titles}; rename one")
    linked = [title for s in page.sections for b in s.blocks if isinstance(b, Links) for title, _ in b.rows]
    for title in linked:
        if title not in slugs:
            raise ValueError(f"no section {title!r} to link to; there are {titles}")
    templates = {name: template.to_plotly_json() for name, template in {"light": LIGHT, "dark": DARK}.items()}
    cards = _script_json({"cards": card_texts(page.cards), "command": page.card_command})
    values = {"page": page, "slugs": slugs, "templates": _script_json(templates), "cards": cards}
    values |= {f"cards_{kind}": Markup(asset(f"cards.{kind}")) for kind in ("js", "css")}
    values["plotly"] = Markup(get_plotlyjs())
    return _environment().get_template("page.html").render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("kntools.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = lambda text: Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
    environment.tests["a"] = lambda block, kind: type(block).__name__ == kind
    return environment


def _cell(value: Any) -> tuple[str, bool]:
    """As text, and whether it is a number."""
    if isinstance(value, bool):
        return "yes" if value else "no", False
    if isinstance(value, float):
        return "" if math.isnan(value) else number(value), True
    if isinstance(value, int):
        return f"{value:,}", True
    return "" if value is None else str(value), False


def _script_json(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    return Markup(json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c"))
