"""A result that is a table: what most analyses return."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import pandas as pd

from kntools.results.result import Result

Row = dict[str, Any]
T = TypeVar("T", bound="Table")


@dataclass(frozen=True, eq=False, repr=False)
class Table(Result):
    """Rows, the finest that the analysis has, and a header that says how they were made.

    ```python
    result.to_frame(), result.rows      # pandas; the same as dictionaries
    result.save("table.csv")            # the table alone
    result.save("table.json")           # everything; kn.load("table.json") reads it
    result.plot()                       # plotly, never shown by itself
    ```
    """

    frame: pd.DataFrame
    header: dict[str, Any]  # provenance, and what is true of the whole table

    @classmethod
    def of(cls: type[T], rows: Iterable[Row], header: dict[str, Any]) -> T:
        """From dictionaries of the same names."""
        return cls(pd.DataFrame(list(rows)), header)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        return tuple({str(name): value for name, value in row.items()} for row in self.frame.to_dict("records"))

    def to_frame(self) -> pd.DataFrame:
        return self.frame

    def describe(self) -> str:
        return f"{type(self).__name__} ({self.header.get('model', '?')}), {len(self.frame)} rows"
