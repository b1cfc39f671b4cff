"""A report as tests read it, and the numbers of a sentence beside those that are expected."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kntools.report import Report


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

    def sentence(self, key: str) -> str:
        return next(shown.sentence for figure, shown in self.report.shown if figure.key == key)


TOKEN = re.compile(r"L\d+\.N\d+|(?<![\w.^])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")


def agree(token: str, expected: Any) -> bool:
    """Is it the same count, the value to the digits that are shown, or the name of the neuron?"""
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


def wilson(hits: float, of: int) -> list[float]:
    """Share, and Wilson's 95 % interval by its formula."""
    z, share = 1.959963984540054, hits / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return [share, middle - half, middle + half]


def part(hits: Any, of: Any) -> list[Any]:
    """Count, of how many, and share and interval in percent."""
    return [int(hits), int(of), *(100 * value for value in wilson(int(hits), int(of)))]
