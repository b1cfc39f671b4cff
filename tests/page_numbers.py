"""A report as tests read it, and the numbers of a sentence beside those that are expected."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kntools.report import Report
from kntools.results.run_file import RunFile
from kntools.results.statistics import bootstrap_interval


@dataclass(frozen=True)
class Made:
    """A report, and what a test reads of it."""

    report: Report
    model: Any

    @property
    def folder(self) -> Path:
        return self.report.page.parent

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.folder / "tables" / f"{name}.csv")

    def sentence(self, key: str, what: str) -> str:
        """The `finding`, the `details` or the `n` of a figure, or `paragraphs` among its parts."""
        shown = next(shown for figure, shown in self.report.shown if figure.key == key)
        if what == "paragraphs":
            return " ".join(part for part in shown.parts if isinstance(part, str))
        text = getattr(shown, what)
        return text if isinstance(text, str) else " ".join(text)

    def items(self, run: str) -> dict[str, Any]:
        """Key to payload."""
        return RunFile(self.folder / "runs" / run).read()[1]


TOKEN = re.compile(r"L\d+\.N\d+|(?<![\w.^])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")
#: A number that no table holds.
ANY = None


def agree(token: str, expected: Any) -> bool:
    """Is it the same count, the value to the digits that are shown, or the name of the neuron? A pair is a range."""
    if expected is ANY:
        return True
    if isinstance(expected, tuple):
        return expected[0] <= float(token) <= expected[1]
    if isinstance(expected, str) or token.startswith("L"):
        return token == expected
    shown = float(token.replace(",", ""))
    if isinstance(expected, int):
        return shown == expected and "." not in token
    mantissa, _, exponent = token.partition("e")
    half = 0.5 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(shown - float(expected)) <= half * (1 + 1e-6)


def assert_numbers(text: str, expected: list[Any]) -> None:
    found = TOKEN.findall(text)
    assert len(found) == len(expected), (text, expected)
    wrong = [(token, value) for token, value in zip(found, expected, strict=True) if not agree(token, value)]
    assert not wrong, (wrong, text)


def part(hits: Any, of: Any) -> list[Any]:
    """Count, of how many, percent, and Wilson's interval in percent, by its formula."""
    hits, of = int(hits), int(of)
    if of == 0:
        return [0, 0]
    z, share = 1.959963984540054, hits / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return [hits, of, 100 * share, 100 * (middle - half), 100 * (middle + half)]


def interval(values: Any) -> list[float]:
    """Mean, lower and upper end."""
    tensor = torch.tensor([float(value) for value in values], dtype=torch.float64)
    low, high = bootstrap_interval(tensor)
    return [float(tensor.mean()), float(low), float(high)]
