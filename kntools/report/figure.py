"""What a figure of the report is: a question, what the paper found, and what this model shows in one sentence.

The texts are in `assets/texts.toml`: figures, and by their names charts and tables.
"""

import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from kntools.report.page import Block, Chart, PageTable
from kntools.report.study import Study
from kntools.results.statistics import Bounds, share_interval, student_interval, t_test
from kntools.results.table import Row
from kntools.sites import Neuron

ALPHA = 0.05  # of every test of the report
_ROWS = 12  # longer tables stand behind a line to click on


@dataclass(frozen=True)
class Shown:
    """What one model shows: one sentence that says no more than its test supports, and the numbers behind it."""

    sentence: str
    blocks: Sequence[Block] = ()
    missing: Mapping[str, str] = field(default_factory=dict)  # what is left out, and why
    note: str = ""  # how it was made

    @property
    def remarks(self) -> str:
        """How it was made, and what is left out, reason by reason."""
        names: dict[str, list[str]] = {}
        for name, reason in self.missing.items():
            names.setdefault(reason, []).append(name)
        left_out = [f"Left out: {', '.join(listed)} ({reason})." for reason, listed in names.items()]
        return " ".join([self.note, *left_out]).strip()


@dataclass(frozen=True)
class Figure:
    """One figure of the paper, or the part of the report before them."""

    key: str  # "1" to "11", or "facts"
    name: str  # of its analysis
    title: str
    question: str
    claim: str  # of the paper
    show: Callable[[Study], Shown]

    @property
    def heading(self) -> str:
        return f"Figure {self.key}: {self.title}" if self.key.isdigit() else self.title


@cache
def asset(name: str) -> dict[str, Any]:
    return tomllib.loads((files("kntools.report") / "assets" / name).read_text(encoding="utf-8"))


def chart(name: str, figure: Any, file: str = "", **values: object) -> Chart:
    """A figure with its title and caption; `file` tells charts of the same text apart, `values` fill the text in."""
    text = asset("texts.toml")["charts"][name]
    title, caption = (text[what].format(**values) for what in ("title", "caption"))
    return Chart(figure, caption, title=title, name=file or name, min_width=text.get("min_width", 0))


def table(name: str, frame: pd.DataFrame, file: str = "", **values: object) -> PageTable:
    """A table with its caption and files; neurons are written by their names."""
    shown, text = frame.copy(), asset("texts.toml")["tables"][name]
    if "neurons" in frame and frame["neurons"].dtype == object:  # and not their number
        shown["neurons"] = [", ".join(repr(Neuron(*pair)) for pair in pairs) for pairs in frame["neurons"]]
    csv, json = (f"tables/{file or name}.{kind}" for kind in ("csv", "json"))
    caption, folded = text["caption"].format(**values), len(frame) > _ROWS
    return PageTable(shown, caption, csv=csv, json=json, folded=folded)


def blocks(
    name: str, *shown: Any, part: str = "", tables: Mapping[str, Any] | None = None, **values: object
) -> list[Block]:
    """Charts and tables called `name` (with `part`), and further tables `name-KEY`, with their texts."""
    own = [(name, item) for item in shown] + [(f"{name}-{key}", frame) for key, frame in (tables or {}).items()]
    end = part and f"-{part}"
    return [(table if isinstance(x, pd.DataFrame) else chart)(key, x, f"{key}{end}", **values) for key, x in own]


def tested(passed: Sequence[str], nothing: str, test: str, p_values: Iterable[float], least: float = 0.0) -> str:
    """A sentence of what passes a test, or that no `nothing` does, unless no test was possible (all p are nan), or none
    that could be passed: an exact test has a `least` p, whatever a sample of its size holds.
    """
    if all(math.isnan(p) for p in p_values):
        return f"No test was possible in this sample ({test})."
    if least >= ALPHA:
        return f"This sample is too small for its test, whose p is at least {least:.2g} ({test})."
    claim = "; ".join(passed) or f"No {nothing} passes the test in this sample"
    return f"{claim[0].upper()}{claim[1:]} ({test}, p < {ALPHA:g})."


def share(hits: int, of: int) -> str:
    """`7 of 8 (88 % [53, 98])`, with Wilson's 95 % interval."""
    if of == 0:
        return "0 of 0"
    low, high = share_interval(hits, of)
    return f"{hits} of {of} ({100 * hits / of:.0f} % [{100 * low:.0f}, {100 * high:.0f}])"


def paired_test(differences: Float[Tensor, " item"], bounds: Bounds) -> Row:
    """`n, mean, low, high, t, p`: the mean of differences that lie within `bounds`, Student's 95 % interval, and the
    t-test of mean 0.
    """
    present = differences[~differences.isnan()].double()
    low, high = (float(end.clamp(*bounds)) for end in student_interval(present))
    t, p = t_test(present * 0, present) if len(present) > 1 else (math.nan, math.nan)
    return {"n": len(present), "mean": float(present.mean()), "low": low, "high": high, "t": t, "p": p}
