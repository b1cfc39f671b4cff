"""A result that is a table: what most analyses return."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import pandas as pd

from kntools.results.result import Result

Row = dict[str, Any]
T = TypeVar("T", bound="Table")


@dataclass(frozen=True, eq=False, repr=False)
class Table(Result):
    """Rows, the finest that the analysis has, how they were made, and what is true of all of them.

    ```python
    result.to_frame(), result.rows      # pandas; the same as dictionaries
    result.save("table.csv")            # the table alone; .json holds everything
    ```
    """

    frame: pd.DataFrame
    provenance: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)  # choices, counts and tests of the whole table

    @classmethod
    def of(cls: type[T], rows: Iterable[Row], provenance: dict[str, Any], **details: Any) -> T:
        return cls(pd.DataFrame(list(rows)), provenance, details)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        return tuple({str(name): value for name, value in row.items()} for row in self.frame.to_dict("records"))

    def to_frame(self) -> pd.DataFrame:
        """The rows, as a table of your own."""
        return self.frame.copy()

    def describe(self) -> str:
        return f"{type(self).__name__} ({self.provenance.get('model', '?')}), {len(self.frame)} rows"
