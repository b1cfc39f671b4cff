"""Small tables for people and programs: markdown, CSV, and a marked place in a documentation page."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from kntools import files

Cells = Sequence[Sequence[object]]


def markdown(columns: Sequence[str], rows: Cells) -> str:
    """A markdown table; numbers stand on the right."""
    rules = ["---:" if rows and all(_is_number(row[i]) for row in rows) else "---" for i in range(len(columns))]
    lines = [columns, rules, *rows]
    return "\n".join("| " + " | ".join(_shown(cell) for cell in line) + " |" for line in lines) + "\n"


def write(path: Path, columns: Sequence[str], rows: Cells, *, marker: str) -> None:
    """Write a table to a new `.csv` file, or into a `.md` page.

    The page must hold `<!-- marker -->` and `<!-- /marker -->`: what stands between them is replaced, the
    rest stays as it is.
    """
    if path.suffix == ".csv":
        with files.atomic(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    elif path.suffix == ".md":
        _replace(path, marker, markdown(columns, rows))
    else:
        raise ValueError(f"{path}: unknown kind of table {path.suffix!r}; use a .csv or .md file")


def _replace(path: Path, marker: str, table: str) -> None:
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    text = path.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(end) < text.index(begin):
        raise ValueError(f"{path}: the table goes between one {begin} and one {end}; put them there")
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    files.write(path, f"{before}{begin}\n\n{table}\n{end}{after}")


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float)


def _shown(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.3f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
