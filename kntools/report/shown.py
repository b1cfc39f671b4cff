"""What a figure of the report is, and what it has to show."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from kntools.report.study import Study
from kntools.results.statistics import bootstrap_interval, share_interval


@dataclass(frozen=True)
class Picture:
    """A plotly figure, and what one sees. `min_width` is that of a figure of several panels, in pixels."""

    name: str  # of its files
    title: str
    figure: Any
    caption: str
    min_width: int = 0


@dataclass(frozen=True)
class Numbers:
    """A table. `name` is that of its files."""

    name: str
    caption: str
    frame: pd.DataFrame
    digits: int = 3


@dataclass(frozen=True)
class Shown:
    """What one model shows, in words that are made from the numbers below them, and the numbers."""

    finding: str  # for the summary
    details: Sequence[str] = ()
    n: str = ""
    parts: Sequence[Picture | Numbers | str] = ()  # a text is a paragraph
    notes: Sequence[str] = ()  # how it was made, what was left out and why


@dataclass(frozen=True)
class Figure:
    """One figure of the paper (or a part of the report beside them): what is asked, what the paper found."""

    key: str  # "1" to "11", or "facts"
    name: str  # of its analysis
    title: str
    question: str
    claim: str
    show: Callable[[Study], Shown]

    @property
    def heading(self) -> str:
        return f"Figure {self.key}: {self.title}" if self.key.isdigit() else self.title


# Numbers in words.


def percent(value: float) -> str:
    """`88 %`."""
    return f"{100 * value:.0f} %"


def share(hits: int, of: int) -> str:
    """`7 of 8 (88 % [53, 98])`, with Wilson's interval."""
    if of == 0:
        return "0 of 0"
    low, high = share_interval(hits, of)
    return f"{hits} of {of} ({percent(hits / of)} [{100 * low:.0f}, {100 * high:.0f}])"


def mean(values: Sequence[float], digits: int = 2) -> str:
    """`0.41 [0.36, 0.46]`; a bootstrap interval over the values."""
    tensor = torch.tensor(values, dtype=torch.float64)
    low, high = bootstrap_interval(tensor)
    return within(float(tensor.nanmean()), float(low), float(high), digits)


def within(value: float, low: float, high: float, digits: int | None = 3, *, signed: bool = False) -> str:
    """`0.412 [0.361, 0.463]`; with `digits=None` two digits of each, `4.1e-06 [3.6e-06, 4.6e-06]` where it is small."""
    middle, *ends = (_fixed(x, digits, signed) for x in (value, low, high))
    return middle if math.isnan(low) or math.isnan(high) else f"{middle} [{', '.join(ends)}]"


def _fixed(value: float, digits: int | None, signed: bool) -> str:
    kind = ".2g" if digits is None else f".{digits}f"
    text = f"{value:{'+' * signed}{kind}}"
    return text.lstrip("+-") if float(text) == 0 else text  # no -0.00


def one_line(text: str) -> str:
    """What a model writes, with `\\n` for a line break."""
    return repr(text.strip())[1:-1]


def missing_notes(missing: dict[str, str]) -> list[str]:
    """One line per paradigm or relation that is left out."""
    return [f"Left out: {name}; {why}." for name, why in missing.items()]
