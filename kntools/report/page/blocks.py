"""What a page is made of. Texts are shown as they are written; backticks set code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from kntools.files import write
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
    min_width: int = 0  # in pixels; on a narrower screen the figure scrolls


@dataclass(frozen=True)
class Table:
    """A data frame. `csv` and `json` are names of files beside the page with the same numbers, in all digits."""

    frame: pd.DataFrame
    caption: str
    csv: str = ""
    json: str = ""
    digits: int = 3
    folded: bool = False  # behind a line to click on

    def write(self, folder: Path) -> list[Path]:
        """Write the files that it names."""
        texts = {self.csv: self.frame.to_csv(index=False), self.json: _records(self.frame)}
        files = []
        for name, text in texts.items():
            if name:
                files.append(write(folder / name, text))
        return files


Block = Text | Notes | Command | Links | Chart | Table


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading, and an entry in its table of contents."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """Everything on a page. `source` (model, settings, command) is repeated under every figure."""

    title: str
    sections: Sequence[Section]
    lead: str = ""
    source: str = ""
    facts: Sequence[tuple[str, str]] = field(default=())  # name and value, at the top


def _records(frame: pd.DataFrame) -> str:
    """One object per row; not-a-number is `null`."""
    return json.dumps(without_nan(frame.to_dict("records")), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
