"""The result of a command, and its output to the terminal, JSON and files."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kntools.cli.options import Options
from kntools.results.display import number, within
from kntools.results.encoding import without_nan

# Rows of a table in the terminal; files have them all.
_ROWS = 40
_FILES = 8


@dataclass(frozen=True)
class Sheet:
    """A table in the terminal: columns `x`, `x_low`, `x_high` are shown as one, and some lines stand below."""

    title: str
    frame: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Output:
    data: Mapping[str, Any]  # of the JSON object, tables as lists of rows; "command" and "files" are added
    sheets: Sequence[Sheet]
    write: Callable[[Path], Sequence[Path]] = field(default=lambda out: ())  # into a folder, or under a name


def emit(output: Output, options: Options) -> None:
    """Write the files if there is `--out`, then print the tables or the JSON."""
    files = [] if options.out is None else [str(file) for file in output.write(options.out)]
    if options.as_json:
        found = without_nan({"command": options.command, **output.data, "files": files})
        typer.echo(json.dumps(found, ensure_ascii=False, indent=2, allow_nan=False))
        return
    # Where there is no screen to fit, nothing is wrapped.
    console = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 1000)
    for sheet in output.sheets:
        console.print(Text(sheet.title, style="bold") if sheet.frame.empty else _table(sheet))
        if len(sheet.frame) > _ROWS:
            console.print(f"... and {len(sheet.frame) - _ROWS} more rows")
        for note in sheet.notes:
            console.print(note, markup=False)
        console.print()
    for file in files[:_FILES]:
        console.print(f"wrote {file}", markup=False)
    if len(files) > _FILES:
        console.print(f"... and {len(files) - _FILES} more files")


def _table(sheet: Sheet) -> Table:
    frame = _with_intervals(sheet.frame)
    table = Table(title=Text(sheet.title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in frame.columns:
        right = pd.api.types.is_numeric_dtype(sheet.frame[name])
        table.add_column(str(name), justify="right" if right else "left", overflow="fold")
    for row in frame.head(_ROWS).itertuples(index=False):
        table.add_row(*(Text(_cell(value)) for value in row))
    return table


def _with_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    """Three columns `x`, `x_low`, `x_high` as one."""
    shown = frame
    for name in map(str, frame.columns):
        ends = [f"{name}_low", f"{name}_high"]
        if set(ends) <= set(frame.columns):
            cells = list(map(within, *(frame[column] for column in (name, *ends))))
            shown = shown.assign(**{name: cells}).drop(columns=ends)
    return shown


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if value != value else number(value)
    return "" if value is None else str(value)
