"""A result that is a table with a header: what all analyses of knowledge neurons return."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from kntools.files import write
from kntools.results import display

Row = dict[str, Any]


@dataclass(frozen=True, repr=False)
class TableResult:
    """Rows (the finest that the analysis has) and a header that says how they were made.

    ```python
    result.to_frame()                   # pandas, one row per row
    result.save("table.csv")            # the table alone
    result.save("table.json")           # everything; Class.load("table.json") reads it
    result.plot()                       # plotly, never shown by itself
    ```

    Not-a-number is written as `null` (JSON) or as nothing (CSV). Equal results give equal bytes.
    """

    rows: tuple[Row, ...]
    header: dict[str, Any]

    kind: ClassVar[str] = "table"

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame(list(self.rows))

    def save(self, path: str | Path) -> Path:
        """Write `.csv` (the table) or `.json` (table and header). The file appears whole or not at all."""
        return save_table(path, self.kind, self.to_frame(), {"header": self.header, "rows": list(self.rows)})

    @classmethod
    def load(cls, path: str | Path) -> Any:
        """Read the `.json` that `save` wrote.

        Raises:
            FileNotFoundError, ValueError: no such file, or another result.
        """
        found = load_table(path, cls.kind)
        return cls(tuple(found["rows"]), found["header"])

    def summary(self) -> pd.DataFrame:
        """The table that a reader wants first."""
        return self.to_frame()

    def describe(self) -> str:
        """One line: what it is, of what model, how many."""
        return f"{self.kind} ({self.header.get('model', '?')}), {len(self.rows)} rows"

    def __repr__(self) -> str:
        return display.text(self.describe(), self.summary())

    def _repr_html_(self) -> str:
        return display.html(self.describe(), self.summary())


def save_table(path: str | Path, kind: str, frame: pd.DataFrame, content: Row) -> Path:
    """A result as `.csv` (its table) or `.json` (everything). The file appears whole or not at all."""
    path = Path(path)
    if path.suffix == ".csv":
        text = frame.to_csv(index=False)
    elif path.suffix == ".json":
        text = json.dumps(without_nan({"result": kind, **content}), ensure_ascii=False, indent=1, allow_nan=False)
    else:
        raise ValueError(f"{path.name}: a table is saved as .csv or .json; name the file so")
    return write(path, text)


def load_table(path: str | Path, kind: str) -> Row:
    """The content of a `.json` that `save_table` wrote; errors say what else the file is."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; results are written by .save('name.json')")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    held = found.get("result") if isinstance(found, dict) else None
    if held != kind:
        raise ValueError(f"{path} holds {held!r}, not {kind!r}; load it with the class that saved it")
    return found


def without_nan(value: Any) -> Any:
    """JSON has no word for nan and infinity."""
    if isinstance(value, Mapping):
        return {str(k): without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def numbers(values: Iterable[Any]) -> list[float]:
    """`None` (a `null` read from a file) as nan."""
    return [math.nan if v is None else float(v) for v in values]
